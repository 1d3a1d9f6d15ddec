# The front door. `make` alone lists what there is.
SHELL := /bin/sh
PYTHON ?= python3
GPU ?= auto
.DEFAULT_GOAL := help
.PHONY: help setup bench profile report regress baseline lint test sweeps kernels test-gpu trials clean
export PYTHONPATH := $(CURDIR)

# What is given on the command line goes through the environment and is quoted there: a shell never reads it as code.
VARIABLES := GPU STUDY CASE QUICK BASE REASON STACK PYTHON
export $(VARIABLES)

# A misspelt variable would silently measure something else.
GIVEN := $(foreach name,$(.VARIABLES),$(if $(findstring command,$(origin $(name))),$(name)))
UNKNOWN := $(filter-out $(VARIABLES) SHELL MAKEFLAGS MAKEOVERRIDES MFLAGS -%,$(GIVEN))
LIKE_GPU := gpu gpus GPUS Gpu device DEVICE DEVICES
LIKE_STUDY := study studies STUDIES Study STUDYS table TABLE
LIKE_CASE := case Case CASES cases TRACE trace MODEL model
LIKE_QUICK := quick Quick FAST fast
LIKE_BASE := base Base BASES REV rev REVISION COMMIT
LIKE_REASON := reason Reason REASONS WHY why
LIKE_STACK := stack stacks STACKS Stack CUDA cuda
LIKE_PYTHON := python Python PY py
ifneq ($(UNKNOWN),)
MEANT := $(strip $(foreach name,$(VARIABLES),$(if $(filter $(LIKE_$(name)),$(UNKNOWN)),$(name))))
$(error unknown variable $(UNKNOWN); $(if $(MEANT),did you mean $(MEANT)?,known are $(VARIABLES)))
endif

# Sets up what GPU needs (or STACK, where it is given) unless it is there; $$py is then its interpreter.
SETUP = "$$PYTHON" -m bench.setup_env --gpu "$$GPU" $${STACK:+--stack "$$STACK"}
USE_ENV = py=$$($(SETUP) --print-python) || exit;

help:
	@echo 'make TARGET [GPU=auto|cpu|NAME|INDEX] [STUDY="NAME …"|FILE.toml] [CASE=CASE|TRACE.json] [QUICK=1] [BASE=REV] [REASON=TEXT] [STACK=cuda12|cuda13] [PYTHON=python3]'
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## make the virtual environment that GPU needs
	@$(SETUP)

# STUDY goes through the environment, so that a path may hold anything: it is names apart by blanks, or one file.
# The report shows what was measured even where some of it failed (1); wrong usage (2) measured nothing.
bench: ## measure the studies on GPU, print the tables, write the report
	@py=$$($(SETUP) --here --print-python) || exit; \
	set -f --; \
	if [ -f "$$STUDY" ]; then set -- --study "$$STUDY"; else for study in $$STUDY; do set -- "$$@" --study "$$study"; done; fi; \
	case "$$QUICK" in ''|0) ;; *) set -- "$$@" --quick;; esac; \
	"$$py" -m bench run --gpu "$$GPU" "$$@"; \
	status=$$?; \
	if [ $$status -ne 2 ]; then "$$py" -m reports || status=$$?; fi; \
	exit $$status

profile: ## where the time of CASE goes on GPU, or that of a trace, for which nothing is run
	@[ -n "$$CASE" ] || { echo 'error: make profile needs a CASE or a trace: make profile CASE=restv2_tiny' >&2; exit 2; }; \
	py=$$($(SETUP) --here --print-python) || exit; \
	set -- --gpu "$$GPU"; \
	case "$$QUICK" in ''|0) ;; *) set -- "$$@" --quick;; esac; \
	"$$py" -m bench profile "$$@" -- "$$CASE"

report: ## write tables, plots and the page from the results that are there
	@$(USE_ENV) "$$py" -m reports

regress: ## what is checked out beside the commit BASE on GPU, or beside what was accepted for it: slower, faster or the same
	@py=$$($(SETUP) --here --print-python) || exit; \
	"$$py" -m bench regress $${BASE:+--base "$$BASE"} --gpu "$$GPU"

baseline: ## accept the speed of what is checked out on GPU for a REASON: bench/baselines/<gpu>.json
	@[ -n "$$REASON" ] || { echo 'error: make baseline needs a REASON, which is kept: make baseline GPU=h100 REASON="torch 2.12"' >&2; exit 2; }; \
	py=$$($(SETUP) --here --print-python) || exit; \
	"$$py" -m bench baseline --gpu "$$GPU" --reason "$$REASON"

lint: ## style and types
	@$(USE_ENV) "$$py" -m ruff check && "$$py" -m ruff format --check && "$$py" -m mypy

# A process a core, each with one thread: threads that wait for a core cost more than they give. Tests start over a
# hundred processes, and where no bytecode may be written each would compile our files anew.
TESTS_ENV = OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE=

# Files are started in the order of tests/conftest.py.
test: lint ## lint, and most tests that need no GPU
	@$(USE_ENV) $(TESTS_ENV) "$$py" -m pytest -q -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

# A test a core at a time, as they share no set-up.
sweeps: ## the checks of `make test` over many more cases, and long ones
	@$(USE_ENV) $(TESTS_ENV) "$$py" -m pytest -q -m 'sweep and not gpu and not trials' -n auto --maxprocesses 4 --dist worksteal

kernels: ## compile the kernels ahead of time, without a GPU: registers, spills, instructions, bounds
	@$(USE_ENV) "$$py" -m kernels.aot

# Compiling kernels takes a core each; what times something has the GPU to itself.
test-gpu: ## the tests that need a GPU
	@$(USE_ENV) "$$py" -c 'import sys, torch; torch.cuda.is_available() or sys.exit("error: no GPU that CUDA can use here: nothing was tested")' \
	&& "$$py" -m pytest -q -m 'gpu and not sweep' tests/kernels -n auto --maxprocesses 8 --dist worksteal \
	&& "$$py" -m pytest -q -m 'gpu and not sweep' --ignore tests/kernels

trials: ## the long statistical and crash trials
	@$(USE_ENV) "$$py" -m pytest -m trials --timeout 3600

clean: ## remove the environments and caches, never results
	rm -rf .venv .venv-cuda12 .venv*.lock .mypy_cache .pytest_cache .ruff_cache
