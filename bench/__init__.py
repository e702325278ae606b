"""Side-by-side measurements against peers, one command: `make bench`. Figures are ratios of one run on one machine."""
