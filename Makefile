# One entry point for people and for CI. `make` alone lists what there is.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory --no-builtin-rules

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
INSTALLED_BENCH := $(VENV)/.installed-bench

# The first of these that runs and is new enough; a shim without a version behind it does not count.
PYTHON ?= $(shell for p in python3.11 python3; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo "$$p" && break; done)

PIP_INSTALL := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt

# Two workers: each test has its own server on a port of its own, and a small machine has two cores.
# A file stays on one worker, so that what its tests share is started once.
WORKERS ?= 2
XDIST := -n $(WORKERS) --dist loadfile
# Seconds after which a whole run is given up, so that CI ends within the hour.
TEST_SECONDS ?= 1500
CHAOS_SECONDS ?= 1800
# Seconds for one fault test, which may try many seeds.
CHAOS_TEST_SECONDS ?= 600
# Seeds that each fault test tries.
CHAOS_RUNS ?= 20
PYTEST_ARGS ?=

.PHONY: help venv demo test unit check format chaos cluster containers faust-conformance bench clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-17s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

venv: $(INSTALLED) ## Create .venv with the pinned packages (done once, again when the pins change)
	@:

$(INSTALLED): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "no Python 3.11 or later found; name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@echo "venv: $(VENV), $$($(PYTHON) --version)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed")'
	@$(PYTHON) -m venv $(VENV)
	@$(PIP_INSTALL) -e '.[demo,test,dev]'
	@touch $@

$(INSTALLED_BENCH): $(INSTALLED)
	@$(PIP_INSTALL) -e '.[bench]'
	@touch $@

demo: $(INSTALLED) ## Record, store, play back and verify three sessions on an embedded server
	@$(BIN)/lucid demo

test: $(INSTALLED) ## Unit, contract, integration, Faust and end-to-end tests: a quarter of an hour
	@$(BIN)/pytest -q -m "not chaos" $(XDIST) --session-timeout=$(TEST_SECONDS) $(PYTEST_ARGS) tests

unit: $(INSTALLED) ## The quick path: tests that need no server
	@$(BIN)/pytest -q -m "not chaos" $(PYTEST_ARGS) tests/unit tests/test_layers.py

check: $(INSTALLED) ## Format, lint, types, spelling and layers; changes nothing
	@echo "check: ruff format"
	@$(BIN)/ruff format --quiet --check . || { echo "run: make format" >&2; exit 1; }
	@echo "check: ruff"
	@$(BIN)/ruff check --quiet .
	@echo "check: mypy --strict"
	@$(BIN)/mypy --strict --no-error-summary
	@echo "check: codespell"
	@$(BIN)/codespell
	@echo "check: layers"
	@out=$$($(BIN)/lint-imports --no-cache --no-logo) || { echo "$$out"; exit 1; }

format: $(INSTALLED) ## Format the code and fix what can be fixed safely
	@$(BIN)/ruff check --quiet --fix-only .
	@$(BIN)/ruff format --quiet .

chaos: $(INSTALLED) ## Fault tests, CHAOS_RUNS seeds each (default 20)
	@CHAOS_RUNS=$(CHAOS_RUNS) $(BIN)/pytest -q -m chaos --timeout=$(CHAOS_TEST_SECONDS) \
		--session-timeout=$(CHAOS_SECONDS) $(PYTEST_ARGS) tests

faust-conformance: $(INSTALLED) ## Faust's own tests against the driver
	@$(BIN)/python scripts/faust_conformance/run.py

cluster: $(INSTALLED) ## R3 and faults in containers; says NOT RUN without a Docker engine
	@PYTHON=$(BIN)/python deploy/containers/cluster.sh $(PYTEST_ARGS)

containers: $(INSTALLED) ## Build images, run compose, record and play; says NOT RUN without an engine
	@PYTHON=$(BIN)/python deploy/containers/try.sh

bench: $(INSTALLED_BENCH) ## Measurements; prints numbers, fails on none
	@$(BIN)/python -m bench

clean: ## Remove .venv, caches and build results
	@rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
