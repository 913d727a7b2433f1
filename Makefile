# `make compare` and `make test` need only Python 3.11 or newer: they set up .venv by themselves.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$python"; exit; }; done)
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help compare test test-all lint clean

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

compare: $(INSTALLED) ## train both arms on the built-in data and write runs/quick/report.html; run it again to resume
	$(BIN)/archlab compare --preset quick --out runs/quick

# A worker more than the two cores of a small machine: many tests wait for processes that they start.
TESTS := OMP_NUM_THREADS=1 $(BIN)/pytest -n 3 --dist worksteal

test: lint ## run the linters, the type checker and the tests, without the slow ones
	$(TESTS) -m "not slow"

# Coverage makes them half as long again.
test-all: lint ## run every test, with the slow ones too, and say what they cover
	$(TESTS) --cov=archlab --cov-report=term --cov-fail-under=90

lint: $(INSTALLED) ## run ruff (lint and format) and mypy
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

clean: ## remove .venv and all caches; runs/ stays
	rm -rf $(VENV) .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist

# torch comes first and pinned: pip then takes the build that is at hand (see constraints.txt) and keeps it.
# Debian ships Python without ensurepip; there the system's pip installs a pip into the environment.
$(INSTALLED): pyproject.toml constraints.txt
	@echo "setting up $(VENV): PyTorch, then archlab and its development tools (a few minutes, once)"
	@test -n "$(PYTHON)" || { echo "make: no Python 3.11 or newer found; install one, or name it: make PYTHON=..."; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) 2>/dev/null || { \
		$(PYTHON) -m venv --clear --without-pip $(VENV) && $(PYTHON) -m pip --python $(BIN)/python install --quiet pip; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@
