"""The figures' place in PROMISES.md: between two markers, whatever else the page says."""

from __future__ import annotations

from pathlib import Path

PAGE = Path(__file__).parents[1] / "PROMISES.md"
_BEGIN = "<!-- figures: written by `make bench` -->"
_END = "<!-- end of figures -->"


def write(text: str) -> None:
    """Raises ValueError if the page has lost its markers."""
    page = PAGE.read_text()
    before, begin, rest = page.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise ValueError(f"{PAGE.name} has no place for figures: put the lines {_BEGIN} and {_END} where they belong")
    PAGE.write_text(f"{before}{_BEGIN}\n\n{text}\n\n{_END}{after}")
