# setup demo test test-vm bench check clean: each sets up what it needs.
PYTHON = .venv/bin/python

.PHONY: setup demo test test-vm bench check clean

setup:
	@sh scripts/setup.sh

# Everything, on the newest Python; what depends on the interpreter also on the oldest.
test: setup
	@sh scripts/setup-test.sh
	$(PYTHON) -m ruff check .
	@$(PYTHON) scripts/test.py

# Under a real systemd: Debian 12 in QEMU, as docs/installing.md says. Takes root, some ten minutes, and what
# `apt-get install --no-install-recommends qemu-system-x86 qemu-utils mmdebstrap` gives; skipped where that is not there.
test-vm: setup
	$(PYTHON) -m pytest -m vm -v tests/vm

# A node, the examples on it, and what they may not do; ten seconds.
demo: setup
	@$(PYTHON) scripts/demo.py

check: setup
	$(PYTHON) -m ruff check .
	$(PYTHON) -m mypy
	$(PYTHON) -m pytest tests/unit tests/style

# QUICK=1 takes about a minute and only prints; the whole takes less than six, and writes into PROMISES.md.
bench: setup
	@sh scripts/bench.sh $(if $(QUICK),--quick)

clean:
	rm -rf .venv .venv-* build dist .pytest_cache .mypy_cache .ruff_cache bench/out
	find . -name __pycache__ -prune -exec rm -rf {} +
