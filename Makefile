# Short names for what CONTRIBUTING.md asks for.
PYTHON := .venv/base/bin/python

.PHONY: check test test-gpu bench setup

check: setup
	$(PYTHON) -m isort --check omni tests bench
	$(PYTHON) -m flake8 omni tests bench
	$(PYTHON) -m mypy
	$(PYTHON) -m pytest

test:
	bin/omni test

test-gpu:
	bin/omni test -m gpu

bench: setup
	bin/omni bench fabric
	bin/omni bench queue
	bin/omni bench faults

setup:
	@bin/omni install test $$(command -v nvidia-smi >/dev/null || echo test-cpu) dev
