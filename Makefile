# Everything a fresh machine needs is set up here: only python3 with venv and make are assumed.
VENV := .venv
PYTHON := $(VENV)/bin/python
# Python compiles a module when it is first imported: most modules of the packages never are, and all take 15 s.
INSTALL := $(PYTHON) -m pip install --quiet --disable-pip-version-check --no-compile
# Without compiling.
PIP := SHOAL_DISABLE_EXTENSION=1 $(INSTALL)
FLOORS := shm coordinator workers primitives
STORE := demo.db
RESEARCH_STORE := research-demo.db
WORKERS := 4
# How long the long tests run. `make soak MINUTES=60`, and so on.
SEEDS := 2000
KILLS := 200
FUZZ_SECONDS := 20
MINUTES := 5
JOBS := 2
export NO_MKDOCS_2_WARNING := 1

.PHONY: help setup demo research compile test test-long test-slow check format bench clean
.PHONY: simulation mutants kills fuzz soak coverage docs build

help:
	@sed -n 's/^## //p' $(firstword $(MAKEFILE_LIST))

# Hot modules are compiled on installing. Tests compile them in place, so for them nothing is compiled on installing. A
# change to one of them afterwards needs `make compile`, which tests begin with.
$(VENV)/.made:
	python3 -m venv $(VENV)
	@touch $@

$(VENV)/.run: $(VENV)/.made pyproject.toml setup.py
	@echo "installing shoal; compiling its hot modules takes a minute or two"
	$(INSTALL) --editable .
	@touch $@

$(VENV)/.test: $(VENV)/.made pyproject.toml setup.py
	$(PIP) --editable '.[test]'
	@touch $@

$(VENV)/.check: $(VENV)/.made pyproject.toml setup.py
	$(PIP) --editable '.[test,bench,dev,docs,plot]'
	@touch $@ $(VENV)/.test

$(VENV)/.docs: $(VENV)/.made pyproject.toml
	$(PIP) --editable '.[docs]'
	@touch $@

$(VENV)/.fuzz: $(VENV)/.test
	$(PIP) --editable '.[test,fuzz]'
	@touch $@

$(VENV)/.soak: $(VENV)/.test
	$(PIP) --editable '.[test,plot]'
	@touch $@

## make setup         a virtual environment with shoal in it, in .venv
setup: $(VENV)/.run

## make demo          review the standard library with a fleet of workers (CHAOS=1: kill them on the way)
demo: $(VENV)/.run
	@$(PYTHON) examples/code_review.py --store $(if $(CHAOS),chaos-$(STORE),$(STORE)) --workers $(WORKERS) \
		--report $(if $(CHAOS),chaos-report.txt,demo-report.txt) $(if $(CHAOS),--chaos)

## make research      research a question with a fleet that shares queue, budget and findings (CHAOS=1: kill it on the way)
research: $(VENV)/.run
	@$(PYTHON) examples/research_fleet.py --workers $(WORKERS) \
		--store $(if $(CHAOS),chaos-$(RESEARCH_STORE),$(RESEARCH_STORE)) \
		--report $(if $(CHAOS),chaos-research-report.txt,research-report.txt) $(if $(CHAOS),--chaos)

## make compile       compile the hot modules in place, if a C compiler is there; the tests below do that first
compile: $(VENV)/.test
	@.ci/compile $(PYTHON)

## make test          the tests that are quick: a minute on 2 cores, and one to compile
test: compile
	@$(PYTHON) -m pytest

## make test-long     all but the slowest tests: five minutes
test-long: compile
	@$(PYTHON) -m pytest --long

## make test-slow     all tests: half an hour
test-slow: compile
	@$(PYTHON) -m pytest --slow

## make check         what every change must pass: format, lint, types, import floors, docs, tests plain and compiled
check: $(VENV)/.check compile
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	$(VENV)/bin/mkdocs build --quiet
	SHOAL_DISABLE_EXTENSION=1 $(PYTHON) -m pytest --long
	@if $(PYTHON) -c 'import sys, shoal.shm.compilation as c; sys.exit(not c.is_compiled())'; then \
		set -x; SHOAL_REQUIRE_EXTENSION=1 $(PYTHON) -m pytest --long; \
	else echo "THE COMPILED MODULES ARE NOT TESTED: they cannot be compiled here" >&2; fi

## make format        put every file in form, and mend what the linter can mend
format: $(VENV)/.check
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

## make coverage      the tests with coverage of every process: build/coverage/index.html (TESTS=FILE: only that)
coverage: $(VENV)/.check
	rm -rf build/coverage
	$(VENV)/bin/coverage erase
	SHOAL_DISABLE_EXTENSION=1 $(VENV)/bin/coverage run -m pytest --long $(TESTS)
	$(VENV)/bin/coverage combine --quiet
	$(VENV)/bin/coverage html --quiet
	$(VENV)/bin/coverage report --skip-covered --sort=cover

## make simulation    simulated histories of coordinator and clients (SEEDS=2000)
simulation: $(VENV)/.test
	@$(PYTHON) -m tests.simulation --seeds $(SEEDS) --processes $(JOBS)

## make mutants       switch each mutant on, and see that it is caught (MUTANTS=NAME: only that)
mutants: $(VENV)/.test
	@$(PYTHON) -m tests.mutants --jobs $(JOBS) $(MUTANTS)

## make kills         kill workers and coordinators under load, and audit every commit (KILLS=200)
kills: compile
	@$(PYTHON) -m tests.kills --workers $(KILLS) --coordinators $(KILLS)

## make fuzz          fuzz every decoder, guided by coverage (FUZZ_SECONDS=20 for each target)
fuzz: $(VENV)/.fuzz
	@$(PYTHON) -m tests.fuzz --all --seconds $(FUZZ_SECONDS)

## make soak          everything at once, with kills, audited (MINUTES=5)
soak: $(VENV)/.soak compile
	@$(PYTHON) -m tests.soak --minutes $(MINUTES)

## make bench         a quick table beside LMDB, SQLite, Redis, a Manager dict and others
bench: $(VENV)/.check compile
	@$(PYTHON) -m bench --quick

## make docs          the documentation as a site, with a reference of every public class: build/site/index.html
docs: $(VENV)/.docs
	$(VENV)/bin/mkdocs build --quiet
	@echo "build/site/index.html"

## make build         sdist and wheel in dist/, and the wheel made from the sdist tried in a fresh environment
build: $(VENV)/.check
	rm -rf dist
	$(PYTHON) -m build --outdir dist .
	.ci/try-wheel dist

## make clean         remove what the targets above have made, but for .venv
clean:
	rm -rf $(STORE) chaos-$(STORE) demo-report.txt chaos-report.txt
	rm -rf $(RESEARCH_STORE)* chaos-$(RESEARCH_STORE)* research-report.txt chaos-research-report.txt
	rm -rf build dist *.egg-info .coverage .coverage.*
	find $(FLOORS) -name '*.so' -delete
	rm -rf .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
