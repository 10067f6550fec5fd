# Two commands do everything on a machine with Python and make: `make run` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 2
PYTEST := $(BIN)/python -m pytest
# The tests start hundreds of servers and commands: they are compiled once, also where the machine says never.
export PYTHONDONTWRITEBYTECODE =

.PHONY: help run test prove check bench bench-compare contract docs clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "WindFlow needs Python 3.11 or newer; set PYTHON=/path/to/one")'
	@$(PYTHON) -m venv $(VENV) || { echo "no virtual environment: install Python's venv module (Debian: python3-venv)"; rm -rf $(VENV); exit 1; }

$(VENV)/run.stamp: $(BIN)/python requirements/run.txt pyproject.toml
	@echo "Installing what WindFlow needs (once) …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements/run.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

$(VENV)/dev.stamp: $(VENV)/run.stamp requirements/dev.txt
	@echo "Installing what the tests and checks need (once) …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements/dev.txt
	@touch $@

# What falls short is profiled where that is possible; without the profiler everything else is measured all the same.
$(VENV)/bench.stamp: $(VENV)/run.stamp requirements/bench.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements/bench.txt || echo "no profiler: py-spy could not be installed"
	@touch $@

run: $(VENV)/run.stamp  ## the server on http://127.0.0.1:8000, or the next free port
	@WINDFLOW_LOG_FORMAT=$${WINDFLOW_LOG_FORMAT:-text} exec $(BIN)/windflow serve --port-fallback

test: $(VENV)/dev.stamp  ## every test, with short settings and small counts
	@$(PYTEST) -n $(WORKERS) --dist worksteal $(ARGS)

prove: $(VENV)/dev.stamp  ## the same tests with the numbers that were asked for; writes docs/reference/figures.md
	@WINDFLOW_TEST_PROVE=1 $(PYTEST) -o timeout=900 -o asyncio_debug=false $(ARGS); status=$$?; $(BIN)/python scripts/abuse.py; exit $$status

check: $(VENV)/dev.stamp  ## style, types, layers, contract, known vulnerabilities
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/windflow contract check
	@$(BIN)/python scripts/reference.py --check
	@$(BIN)/python scripts/abuse.py --check
	@$(BIN)/python scripts/audit_dependencies.py

bench: $(VENV)/bench.stamp  ## the server beside other programs; QUICK=1: 5 minutes, FULL=1: every size
	@$(BIN)/python -m benchmarks.run --plan $(if $(QUICK),quick,$(if $(FULL),full,usual)) $(ARGS)

bench-compare: $(VENV)/bench.stamp  ## this working copy beside another commit: BASE=main~1
	@$(BIN)/python -m benchmarks.run --compare $(or $(BASE),HEAD~1) $(ARGS)

contract: $(VENV)/run.stamp  ## write types.ts from the catalogue
	@$(BIN)/windflow contract build

docs: $(VENV)/run.stamp  ## write docs/reference from the code
	@$(BIN)/python scripts/reference.py
	@$(BIN)/python scripts/abuse.py

clean:  ## remove the environment and caches; data/ stays
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
