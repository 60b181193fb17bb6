# Everything a fresh machine needs is set up here: only python3 with venv and make are assumed.
VENV := .venv
PYTHON := $(VENV)/bin/python
STORE := demo.db
WORKERS := 4

.PHONY: help setup demo test test-slow check format bench clean

help:
	@echo "make demo          review the standard library with a fleet of $(WORKERS) workers (CHAOS=1: kill them on the way)"
	@echo "make test          run the tests;  make test-slow: the long ones, too"
	@echo "make check         format, lint, types, import floors, tests"
	@echo "make bench         a quick table against LMDB, SQLite, Redis and a Manager"

$(VENV)/.run: pyproject.toml
	python3 -m venv $(VENV)
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.test: $(VENV)/.run
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $@

$(VENV)/.check: $(VENV)/.test
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --editable '.[test,bench,dev]'
	@touch $@

setup: $(VENV)/.run

demo: $(VENV)/.run
	@$(PYTHON) examples/code_review.py --store $(if $(CHAOS),chaos-$(STORE),$(STORE)) --workers $(WORKERS) \
		--report $(if $(CHAOS),chaos-report.txt,demo-report.txt) $(if $(CHAOS),--chaos)

test: $(VENV)/.test
	@$(PYTHON) -m pytest

test-slow: $(VENV)/.test
	@$(PYTHON) -m pytest --slow

check: $(VENV)/.check
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	$(PYTHON) -m pytest

format: $(VENV)/.check
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

bench: $(VENV)/.check
	@$(PYTHON) -m bench --quick

clean:
	rm -rf $(STORE) chaos-$(STORE) demo-report.txt chaos-report.txt build *.egg-info .mypy_cache .ruff_cache .pytest_cache
