# Every target is one call of a program that also runs without make.

# Options come only from the command line: an exported VENV or OUT changes nothing. Neither make nor the shell runs
# anything in their values, and each reaches its program as one word. Other options go into ARGS, which the shell splits
# into words: ARGS='--width=0.5 --se=false', or for Lightning's Trainer into TRAINER='--trainer.precision=bf16-mixed'.
GIVEN := $(foreach name,$(.VARIABLES),$(if $(filter command,$(origin $(name))),$(name)))
$(foreach name,$(GIVEN),$(eval override $(name) := $$(value $(name))))
given  = $(if $(filter $1,$(GIVEN)),$($1))
quote  = '$(subst ','\'',$1)'
quoted = $(call quote,$(call given,$1))

# $(call flags,MODEL OUT) is --model=... --out=..., for those variables that are given.
flags = $(foreach name,$1,$(if $(call given,$(name)),--$(or $(flag-$(name)),$(shell echo $(name) | tr A-Z a-z))=$(call quoted,$(name)))) $(call given,ARGS)
flag-DATA := dataset
options = $(call flags,MODEL DATA DATA_DIR RESOLUTION EPOCHS BATCH_SIZE RECIPE SEEDS PROFILE OUT WORKERS PACK COMPILE \
  PRECISION ENGINE RAY_ADDRESS GPUS PARTITION MARGIN UNTIL RUNTIME THREADS BATCH HALF_WIDTH BUDGET BLOCKS) $(call given,TRAINER)

python := $(call quote,$(or $(call given,PYTHON),python3))
venv   := $(patsubst ~/%,$(HOME)/%,$(or $(call given,VENV),.venv))
extras := $(call given,EXTRAS)
ifneq ($(words $(venv)) $(words x$(extras)),1 1)
  $(error VENV and EXTRAS cannot have spaces: VENV=$(venv) EXTRAS=$(extras))
endif
MADE   := $(venv)/.made-by-make
PY     := $(call quote,$(venv)/bin/python)
PIP    := $(PY) -m pip install -q --disable-pip-version-check -c constraints.txt
RUN    := $(venv)/.run$(extras:%=-%)
LAB    := $(venv)/.run-lab
DEV    := $(venv)/.dev
SWEEPS := $(patsubst experiments/sweeps/%.yaml,%,$(wildcard experiments/sweeps/*.yaml))

.DEFAULT_GOAL := help
.PHONY: help setup studies decide claims report compare predict diagnose search search-blocks notebooks publish latency
.PHONY: latency-android sweep agent test test-all test-kill lint bench bench-latency gpu clean

help: ## list the targets
	@grep -hE '^[a-z%-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-18s %s\n", $$1, $$2}'
	@echo "  studies: $(SWEEPS)"
	@echo "  e.g. make ablate-all, make ablate-se SEEDS=5, make ablate-stem ENGINE=ray RAY_ADDRESS=host:6379 EXTRAS=ray"
	@echo "       make ablate-activation MODEL=mobilenet_v2 DATA=cifar10 SEEDS=5 EPOCHS=30 OUT=folder PROFILE=full"

setup: $(RUN) $(DEV) ## install into .venv everything needed to run and test

ablate-%: $(RUN) ## run a study: make ablate-activation (9 minutes on 2 cores), or all: ablate-all (two hours)
	@$(PY) experiments/ablate.py $(call quote,$*) $(options)

ablate-quantization ablate-all: $(LAB)

latency: $(LAB) ## time the networks of every study (10 minutes on 2 cores): RUNTIME=litert THREADS=2
	@$(PY) experiments/latency.py all $(options)

latency-%: $(LAB) ## time the networks of one study: make latency-activation RUNTIME=all
	@$(PY) experiments/latency.py $(call quote,$*) $(options)

frontier-%: $(LAB) ## draw accuracy against latency, after make ablate-<study>
	@$(PY) experiments/latency.py $(call quote,$*) --profile=quick $(options)

latency-android: $(LAB) ## export models and a script for a phone: STUDY=activation; IMPORT=folder reads its results
	@$(PY) experiments/latency_android.py $(if $(call given,IMPORT),--import=$(call quoted,IMPORT),$(call quote,$(or $(call given,STUDY),activation))) $(options)

decide: $(LAB) ## train the networks of the papers' claims until the claims are decided: BUDGET=8h
	@$(PY) experiments/decide.py $(options)

claims: $(RUN) ## judge the papers' claims by our measurements, and write the report
	@$(PY) experiments/claims.py $(call flags,OUT)

report: $(RUN) ## write results/report.html: every study on one page that opens offline
	@$(PY) experiments/report.py $(call flags,OUT)

report-%: $(RUN) ## write the page of one study: make report-activation
	@$(PY) experiments/report.py $(call quote,$*) $(call flags,OUT)

compare: $(RUN) ## show what differs between two runs: make compare A=activation:relu:0 B=activation:paper:0
	@$(PY) experiments/compare.py $(call quoted,A) $(call quoted,B) $(call flags,OUT)

predict: $(RUN) ## draw a network's boxes, masks or top-5: make predict A=detection:...:0 PICTURES=folder
	@$(PY) experiments/predict.py $(call quoted,A) $(call quoted,PICTURES) $(if $(call given,OUT),--results=$(call quoted,OUT)) $(call given,ARGS)

diagnose: $(RUN) ## find dead kernels, silent channels and lost rank, layer by layer: STUDY=activation, or WEIGHTS=file
	@$(PY) experiments/diagnose.py $(if $(call given,STUDY),$(call quoted,STUDY)) $(call flags,WEIGHTS MODEL OUT)

search: $(LAB) ## find a faster network by NetAdapt and train it: MODEL=mobilenet_v2 RUNTIME=litert
	@$(PY) experiments/search.py $(options)

search-blocks: $(LAB) ## search kernels, expansions, SE, activations and channels: ARGS=--w=-0.15
	@$(PY) experiments/search_blocks.py $(options)

notebooks: $(RUN) $(DEV) ## run the notebooks and keep their outputs
	@$(PY) experiments/notebooks.py $(call given,ARGS)

studies: $(RUN) ## list the studies: cells, runs done, time left, claims
	@$(PY) experiments/studies.py $(call flags,SEEDS PROFILE OUT WORKERS)

sweep: $(RUN) ## register a study with W&B: make sweep STUDY=se
	@$(PY) experiments/sweep.py $(if $(call given,STUDY),$(call quoted,STUDY)) $(options)

agent: $(RUN) ## work on a registered sweep: make agent SWEEP=entity/project/id
	@$(PY) experiments/sweep.py --agent=$(call quoted,SWEEP)

test: $(RUN) $(DEV) ## run the test suite (4 to 9 minutes on 2 cores)
	@$(PY) -m pytest $(call given,ARGS)

test-all: $(RUN) $(DEV) ## run the test suite with its slowest cases (7 to 15 minutes on 2 cores)
	@$(PY) -m pytest --all $(call given,ARGS)

test-kill: $(RUN) $(DEV) ## kill a study 20 times and compare its tables with those of an undisturbed one
	@$(PY) -m pytest tests/studies/runs/test_kill.py --kills=$(call quote,$(or $(call given,KILLS),20)) $(call given,ARGS)

lint: $(RUN) $(DEV) ## run ruff and mypy
	@$(PY) -m ruff check . && $(PY) -m ruff format --check . && $(PY) -m mypy

bench: $(RUN) $(DEV) ## measure speed against torchvision and timm
	@$(PY) experiments/bench.py $(call given,ARGS)

gpu: $(RUN) $(DEV) ## measure one GPU in 12 minutes: BUDGET=seconds; ARGS=--rehearse runs it all on the CPU
	@$(PY) experiments/gpu.py $(call flags,OUT DATA_DIR BUDGET)

publish: $(RUN) ## copy results into results/published, and its tables into the documents
	@$(PY) experiments/publish.py $(call flags,OUT PROFILE)

bench-latency: $(LAB) ## measure how often equal networks are called different, and a 2% slowdown is found
	@$(PY) experiments/bench_latency.py $(options)

clean: ## remove caches, and .venv if make made it; keep results and data
	@if test -e $(call quote,$(MADE)); then rm -rf $(call quote,$(venv)); \
	elif test -e $(call quote,$(venv)); then echo $(call quote,$(venv) was not made here: it stays); fi
	rm -rf .mypy_cache .ruff_cache

$(RUN): pyproject.toml constraints.txt
	@echo $(call quote,installing into $(venv) (about 2 minutes))
	@$(python) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=python3.11 ...")'
	@test -e $(call quote,$(venv)) || { mkdir -p $(call quote,$(venv)) && touch $(call quote,$(MADE)); }
	@test -x $(PY) || $(python) -m venv $(call quote,$(venv))
	@$(PIP) -e $(call quote,.$(if $(extras),[$(extras)]))
	@touch $(call quote,$@)

$(LAB): $(RUN)
	@echo $(call quote,installing the runtimes into $(venv) (about a minute))
	@$(PIP) -e '.[lab,search]'
	@touch $(call quote,$@)

$(DEV): $(RUN)
	@$(PIP) -e '.[dev]'
	@touch $(call quote,$@) $(call quote,$(LAB))
