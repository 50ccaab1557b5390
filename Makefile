# Needs python3 (3.11 or later) with venv, and a network for the first installation. Nothing is installed outside of .venv.
#   make serve   the service on 127.0.0.1:8888, with its data in ./var      make serve ARGS="--port 8890"
#   make test    linters, types and all tests
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help serve test bench soak format lint venv clean

help:
	@echo "make serve    run API and worker on 127.0.0.1:8888, data in ./var (more options: make serve ARGS=--help)"
	@echo "make test     linters, types, all tests"
	@echo "make bench    benchmarks; prints a table, writes bench-results/*.json (ARGS=--quick for a short run);"
	@echo "              STORAGE='sqlite postgresql mongodb' compares them in one table"
	@echo "make soak     kill -9 at random, ROUNDS=20 times, and count what was lost"
	@echo "make format   format the source; make lint: linters and types alone"
	@echo "make clean    remove the environment and what tools left behind (not ./var)"

serve: $(VENV)/.installed
	@exec $(BIN)/zaqar-notify serve $(ARGS)

test: $(VENV)/.installed-test
	@$(BIN)/python tests/run.py $(ARGS)

lint: $(VENV)/.installed-test
	@$(BIN)/python tests/run.py --only-lint

format: $(VENV)/.installed-test
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format .

STORAGE ?=
bench: $(VENV)/.installed-test
	@$(BIN)/python -m benchmarks $(addprefix --storage ,$(STORAGE)) $(ARGS)

ROUNDS ?= 20
soak: $(VENV)/.installed-test
	@$(BIN)/python -m tests.system.soak --rounds $(ROUNDS) $(ARGS)

venv: $(VENV)/.installed-test

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	  || { echo "Python 3.11 or later is needed; '$(PYTHON)' is missing or older. Name another one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null \
	  || { echo "The venv module is missing. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@echo "Making the environment $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)

# Installed anew whenever the package's metadata changes; the package itself is used from this directory.
$(VENV)/.installed: setup.cfg setup.py pyproject.toml | $(VENV)/bin/python
	@echo "Installing ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.installed-test: setup.cfg setup.py pyproject.toml | $(VENV)/bin/python
	@echo "Installing, with what the tests need ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) build dist *.egg-info .stestr .mypy_cache .ruff_cache .import_linter_cache .tox bench-results
	find zaqar_notify tests benchmarks examples -name __pycache__ -prune -exec rm -rf {} +
