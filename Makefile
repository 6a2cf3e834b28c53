# Everything below is one call of a program that also runs without make.

PYTHON ?= python3
VENV   ?= .venv
PY     := $(VENV)/bin/python
RUN    := $(VENV)/.run$(EXTRAS:%=-%)
LAB    := $(VENV)/.run-lab
SWEEPS := $(patsubst experiments/sweeps/%.yaml,%,$(wildcard experiments/sweeps/*.yaml))

# MODEL=mobilenet_v2 becomes --model=mobilenet_v2. Any other setting: ARGS='--width=0.5 --se=false'; arguments of
# Lightning's Trainer: TRAINER='--trainer.precision=bf16-mixed'.
options = $(foreach pair,MODEL:model DATA:dataset DATA_DIR:data_dir RESOLUTION:resolution EPOCHS:epochs \
  BATCH_SIZE:batch_size RECIPE:recipe SEEDS:seeds PROFILE:profile OUT:out WORKERS:workers PACK:pack COMPILE:compile PRECISION:precision ENGINE:engine \
  RAY_ADDRESS:ray_address GPUS:gpus PARTITION:partition MARGIN:margin RUNTIME:runtime THREADS:threads BATCH:batch \
  HALF_WIDTH:half_width BUDGET:budget BLOCKS:blocks,\
  $(if $($(word 1,$(subst :, ,$(pair)))),'--$(word 2,$(subst :, ,$(pair)))=$($(word 1,$(subst :, ,$(pair))))')) $(TRAINER) $(ARGS)

.DEFAULT_GOAL := help
.PHONY: help setup studies claims report compare predict diagnose search search-blocks notebooks publish latency latency-android sweep agent test test-all test-kill lint
.PHONY: bench bench-latency clean

help: ## this list
	@grep -hE '^[a-z%-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-18s %s\n", $$1, $$2}'
	@echo "  studies: $(SWEEPS)"
	@echo "  e.g. make ablate-all, make ablate-se SEEDS=5, make ablate-stem ENGINE=ray RAY_ADDRESS=host:6379 EXTRAS=ray"
	@echo "       make ablate-activation MODEL=mobilenet_v2 DATA=cifar10 SEEDS=5 EPOCHS=30 OUT=folder PROFILE=full"

setup: $(RUN) $(VENV)/.dev ## .venv with everything that running and testing need

ablate-%: $(RUN) ## one study, e.g. make ablate-activation (7 minutes on 2 cores), or ablate-all (two hours)
	@$(PY) experiments/ablate.py $* $(options)

ablate-quantization ablate-all: $(LAB)

latency: $(LAB) ## the latency of every study's networks, as ratios (10 minutes on 2 cores): RUNTIME=litert, THREADS=2
	@$(PY) experiments/latency.py all $(options)

latency-%: $(LAB) ## of one study, e.g. make latency-activation RUNTIME=all
	@$(PY) experiments/latency.py $* $(options)

frontier-%: $(LAB) ## accuracy beside latency, after make ablate-<study>
	@$(PY) experiments/latency.py $* --profile=$(or $(PROFILE),quick) $(filter-out '--profile=%',$(options))

latency-android: $(LAB) ## models and an adb script for a phone: STUDY=activation; IMPORT=folder reads its results
	@$(PY) experiments/latency_android.py $(if $(IMPORT),'--import=$(IMPORT)',$(or $(STUDY),activation)) $(options)

claims: $(RUN) ## the papers' claims beside what was measured here, with verdicts; and the report
	@$(PY) experiments/claims.py $(if $(OUT),'--out=$(OUT)') $(ARGS)

report: $(RUN) ## results/report.html: every study on one page that opens offline
	@$(PY) experiments/report.py $(if $(OUT),'--out=$(OUT)') $(ARGS)

report-%: $(RUN) ## of one study, e.g. make report-activation
	@$(PY) experiments/report.py $* $(if $(OUT),'--out=$(OUT)') $(ARGS)

compare: $(RUN) ## what differs between two runs, and by how much: make compare A=activation:relu:0 B=activation:paper:0
	@$(PY) experiments/compare.py '$(A)' '$(B)' $(if $(OUT),'--out=$(OUT)') $(ARGS)

predict: $(RUN) ## what a trained network sees: make predict A=detection:...:0 PICTURES=folder; boxes, masks or top-5
	@$(PY) experiments/predict.py '$(A)' $(PICTURES) $(if $(OUT),'--results=$(OUT)') $(ARGS)

diagnose: $(RUN) ## dead kernels, silent channels, lost rank, layer by layer, of trained networks: make diagnose STUDY=activation
	@$(PY) experiments/diagnose.py $(STUDY) $(if $(OUT),'--out=$(OUT)') $(ARGS)

search: $(LAB) ## NetAdapt: a faster network, then trained beside one scaled by width: MODEL=mobilenet_v2 RUNTIME=litert
	@$(PY) experiments/search.py $(options)

search-blocks: $(LAB) ## over kernels, expansions, SE, activations, channels: ARGS=--w=-0.15
	@$(PY) experiments/search_blocks.py $(options)

notebooks: $(RUN) $(VENV)/.dev ## run the notebooks, top to bottom, and keep their outputs
	@$(PY) experiments/notebooks.py $(ARGS)

studies: $(RUN) ## every study: cells, runs done, time left, claims
	@$(PY) experiments/studies.py $(foreach pair,SEEDS:seeds PROFILE:profile OUT:out WORKERS:workers,\
	  $(if $($(word 1,$(subst :, ,$(pair)))),'--$(word 2,$(subst :, ,$(pair)))=$($(word 1,$(subst :, ,$(pair))))')) $(ARGS)

sweep: $(RUN) ## register a study with W&B: make sweep STUDY=se
	@$(PY) experiments/sweep.py $(STUDY) $(options)

agent: $(RUN) ## work on a registered sweep: make agent SWEEP=entity/project/id
	@$(PY) experiments/sweep.py --agent='$(SWEEP)'

test: $(RUN) $(VENV)/.dev ## the test suite (6 minutes on 2 cores)
	@$(PY) -m pytest $(ARGS)

test-all: $(RUN) $(VENV)/.dev ## the test suite, its slowest cases included (15 minutes on 2 cores)
	@$(PY) -m pytest --all $(ARGS)

test-kill: $(RUN) $(VENV)/.dev ## kill a sweep 20 times and compare its tables with an undisturbed one's
	@$(PY) -m pytest tests/studies/runs/test_kill.py --kills=$(or $(KILLS),20) $(ARGS)

lint: $(RUN) $(VENV)/.dev ## ruff and mypy
	@$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check . && $(VENV)/bin/mypy

bench: $(RUN) $(VENV)/.dev ## speed against torchvision and timm, as ratios
	@$(PY) experiments/bench.py $(ARGS)

publish: $(RUN) ## results/ into results/published, and its tables into the READMEs
	@$(PY) experiments/publish.py $(if $(OUT),'--out=$(OUT)') $(if $(PROFILE),'--profile=$(PROFILE)')

bench-latency: $(LAB) ## how often equal networks are called different, and a slowdown of 2% is found
	@$(PY) experiments/bench_latency.py $(options)

clean: ## remove .venv and caches; results and data stay
	rm -rf $(VENV) .mypy_cache .ruff_cache build dist *.egg-info

$(RUN): pyproject.toml constraints.txt
	@echo "installing into $(VENV) (about 2 minutes)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=python3.11 ...")'
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@$(PY) -m pip install -q --disable-pip-version-check -c constraints.txt -e '.$(if $(EXTRAS),[$(EXTRAS)])'
	@touch $@

$(LAB): $(RUN)
	@echo "installing the runtimes into $(VENV) (about a minute)"
	@$(PY) -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[lab,search]'
	@touch $@

$(VENV)/.dev: $(RUN)
	@$(PY) -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@ $(LAB)
