# `make help` lists what there is. Everything runs in .venv, which `make setup` creates from python3 and pip alone.

VENV ?= .venv
PYTHONS := $(or $(PYTHON),python3 python3.13 python3.12 python3.11)
BIN := $(abspath $(VENV))/bin
# DVC starts each stage with the `python` that PATH finds first.
IN_VENV := PATH="$(BIN):$$PATH"
PIP := "$(BIN)/python" -m pip --disable-pip-version-check -qq

export DVC_NO_ANALYTICS ?= 1
export MLFLOW_DISABLE_TELEMETRY ?= true

.DEFAULT_GOAL := help
.PHONY: help setup repro test test-integration fuzz check format ui lock clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-16s %s\n", $$1, $$2 }' Makefile

setup: $(VENV)/.runtime ## Create .venv with the pinned packages; a second call does nothing

# Models do not wait for each other: as many are trained side by side as there are cores (`make repro JOBS=1`: one).
JOBS ?= $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1)

repro: setup ## Run whatever of the pipeline is out of date, and publish the results to MLflow
	@$(IN_VENV) PYTHONPATH=src python -m nmt mend
	@export $(IN_VENV); dvc status -q || { dvc repro tokenize && dvc stage list --name-only | sed -n 's/^train@//p' | \
		xargs -P $(JOBS) -I MODEL dvc --wait-for-lock repro --single-item \
		train@MODEL translate@MODEL evaluate@MODEL analyze_attention@MODEL; }
	@$(IN_VENV) dvc repro
	-@$(IN_VENV) nmt publish # a tracker that is off or down costs no result

test: $(VENV)/.development ## Run the tests
	@$(IN_VENV) python -m pytest -q -n 2 --dist loadgroup

test-integration: $(VENV)/.integration ## Run the tests that need servers (PostgreSQL, S3, MLflow), queues and clones: minutes each
	@$(IN_VENV) python -m pytest -q -n 2 --dist loadgroup -m integration

fuzz: $(VENV)/.development ## Try bad inputs of every kind, others each time (EXAMPLES=300 of each property)
	@$(IN_VENV) NMT_FUZZ=$(or $(EXAMPLES),300) python -m pytest -q -n 2 --dist loadgroup tests/fuzz

check: $(VENV)/.development ## Check style, format and types
	@$(IN_VENV) ruff check
	@$(IN_VENV) ruff format --check
	@$(IN_VENV) clang-format --dry-run --Werror src/nmt/model/native/*.h src/nmt/model/native/*.cpp
	@$(IN_VENV) mypy

format: $(VENV)/.development ## Put the code into its standard format
	@$(IN_VENV) ruff check --fix
	@$(IN_VENV) ruff format
	@$(IN_VENV) clang-format -i src/nmt/model/native/*.h src/nmt/model/native/*.cpp

ui: setup ## Open MLflow's pages on this machine: runs, curves, models
	@case "$$MLFLOW_TRACKING_URI" in http*) echo "MLFLOW_TRACKING_URI is a server, which has pages of its own"; exit 1;; esac; \
	$(IN_VENV) mlflow ui --host 127.0.0.1 --backend-store-uri "$${MLFLOW_TRACKING_URI:-sqlite:///mlflow.db}"

lock: ## Pin the newest packages that pyproject.toml allows
	@$(MAKE) --no-print-directory .venv-lock/.locked VENV=.venv-lock
	@rm -rf .venv-lock

clean: ## Remove .venv and the tools' caches; data, models, results and runs stay
	@rm -rf .venv .venv-* .pytest_cache .mypy_cache .ruff_cache .hypothesis src/nmt.egg-info
	@find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp is younger than the pins that it stands for, so a second call compares dates and ends.

FIT := import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))

$(VENV)/bin/python:
	@for python in $(PYTHONS); do \
		if "$$python" -c '$(FIT)' 2>/dev/null; then \
			echo "setup: $(VENV) from $$("$$python" --version) ($$(command -v "$$python"))"; \
			"$$python" -m venv --clear $(VENV) && exit 0; \
			rm -rf $(VENV); \
		fi; \
	done; \
	echo "error: none of '$(PYTHONS)' is a Python 3.11, 3.12 or 3.13 with venv and pip; install one" \
		"(Debian and Ubuntu: python3 and python3-venv), or name it: make setup PYTHON=/path/to/python3.12" >&2; \
	exit 1

$(VENV)/.runtime: requirements.lock pyproject.toml | $(VENV)/bin/python
	@echo "setup: installing $$(grep -c == requirements.lock) pinned packages (minutes the first time; PyTorch is large)"
	@$(PIP) install --use-pep517 -r requirements.lock
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

# Runs the GPU's kernels on a CPU, for their tests. No pin: a build of PyTorch that brings it says which one.
TRITON := triton>=3.6,<4; sys_platform == 'linux'

$(VENV)/.development: requirements-dev.lock $(VENV)/.runtime
	@echo "setup: installing the tools for checks and tests"
	@$(PIP) install -r requirements.lock -r requirements-dev.lock "$(TRITON)"
	@touch $@

$(VENV)/.integration: requirements-integration.lock $(VENV)/.development
	@echo "setup: installing what the tests with servers need"
	@$(PIP) install -r requirements.lock -r requirements-dev.lock -r requirements-integration.lock
	@touch $@

# Builds for one kind of machine (+cpu) and packages that only some builds of PyTorch ask for stay out: pip finds its own.
FREEZE = $(PIP) freeze --all --exclude-editable | sed 's/+.*//' | grep -v -i -E '^(pip|wheel|nvidia-.*|cuda-.*|triton)=='

$(VENV)/.locked: | $(VENV)/bin/python
	@$(PIP) install --use-pep517 .
	@(head -n 1 requirements.lock; $(FREEZE) | grep -v '^nmt ') > $(VENV)/runtime
	@$(PIP) install '.[dev]'
	@(head -n 1 requirements-dev.lock; $(FREEZE) | grep -v '^nmt ' | grep -v -x -F -f $(VENV)/runtime) > $(VENV)/development
	@$(PIP) install '.[dev,integration]'
	@(head -n 1 requirements-integration.lock; $(FREEZE) | grep -v '^nmt ' | \
		grep -v -x -F -f $(VENV)/runtime -f $(VENV)/development) > $(VENV)/integration
	@mv $(VENV)/runtime requirements.lock
	@mv $(VENV)/development requirements-dev.lock
	@mv $(VENV)/integration requirements-integration.lock
