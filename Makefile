# Everything below is one call of a program that also runs without make.

PYTHON ?= python3
VENV   ?= .venv
PY     := $(VENV)/bin/python
SWEEPS := $(patsubst experiments/sweeps/%.yaml,%,$(wildcard experiments/sweeps/*.yaml))

# MODEL=mobilenet_v2 becomes --model=mobilenet_v2. Any other setting: ARGS='--width=0.5 --se=false'.
options = $(foreach pair,MODEL:model DATA:dataset DATA_DIR:data_dir RESOLUTION:resolution EPOCHS:epochs \
  BATCH_SIZE:batch_size RECIPE:recipe SEEDS:seeds PROFILE:profile OUT:out WORKERS:workers,\
  $(if $($(word 1,$(subst :, ,$(pair)))),'--$(word 2,$(subst :, ,$(pair)))=$($(word 1,$(subst :, ,$(pair))))')) $(ARGS)

.DEFAULT_GOAL := help
.PHONY: help setup test lint bench clean

help: ## this list
	@grep -hE '^[a-z%-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-18s %s\n", $$1, $$2}'
	@echo "  studies: $(SWEEPS)"
	@echo "  e.g. make ablate-activation MODEL=mobilenet_v2 DATA=cifar10 SEEDS=5 EPOCHS=30 OUT=folder PROFILE=full"

setup: $(VENV)/.run $(VENV)/.dev ## .venv with everything that running and testing need

ablate-%: $(VENV)/.run ## one study, e.g. make ablate-activation (7 minutes on 2 cores)
	@$(PY) experiments/ablate.py $* $(options)

test: $(VENV)/.run $(VENV)/.dev ## the test suite
	@$(PY) -m pytest $(ARGS)

lint: $(VENV)/.run $(VENV)/.dev ## ruff and mypy
	@$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check . && $(VENV)/bin/mypy

bench: $(VENV)/.run $(VENV)/.dev ## speed against torchvision and timm, as ratios
	@$(PY) experiments/bench.py $(ARGS)

clean: ## remove .venv and caches; results and data stay
	rm -rf $(VENV) .mypy_cache .ruff_cache build dist *.egg-info

$(VENV)/.run: pyproject.toml constraints.txt
	@echo "installing into $(VENV) (about 2 minutes)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=python3.11 ...")'
	@$(PYTHON) -m venv $(VENV)
	@$(PY) -m pip install -q --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	@$(PY) -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@
