# nami_jax: one virtual environment, one target per task. `make` lists the targets.

CONFIG ?= configs/emoji_tiny.py
WORKDIR ?= runs/$(subst :,_,$(subst .py,,$(notdir $(CONFIG))))
# `make sample` draws with the run in WORKDIR if there is one, or if CONFIG or WORKDIR is given; else with the model of sample.py.
CHECKPOINT ?= $(if $(filter-out file,$(origin CONFIG) $(origin WORKDIR))$(wildcard $(WORKDIR)/checkpoints),$(WORKDIR))
PROMPT ?= a red apple
SOURCE ?=
OUT ?= out
TOPOLOGY ?= v5e:2x2
ARGS ?=
PYTHON ?= python3
VENV ?= .venv
PARITY_VENV ?= .venv-parity
LAUNCH_VENV ?= .venv-launch
NOTEBOOKS_VENV ?= .venv-notebooks
# A package index with CPU builds of torch, for `make parity`, where the usual one has builds for CUDA only.
TORCH_INDEX ?=
ACCELERATOR ?= $(shell \
	if nvidia-smi -L 2>/dev/null | grep -q GPU; then echo cuda; \
	elif ls /dev/accel[0-9]* /dev/vfio/[0-9]* 2>/dev/null | grep -q . && \
	     grep -qs 0x1ae0 /sys/bus/pci/devices/*/vendor; then echo tpu; \
	else echo cpu; fi)
ACCELERATOR := $(ACCELERATOR)

# A prompt reaches the program as it was typed: make expands no $ in it, and the shell reads it from its environment.
override PROMPT := $(value PROMPT)
export PROMPT

BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
LOCKED := $(VENV)/.ready-$(ACCELERATOR)
# Named after this folder, for an editable install points to it: a clone that was moved installs itself again.
READY := $(VENV)/.ready-package-$(ACCELERATOR)-$(shell pwd | cksum | cut -d ' ' -f 1)
READY_PREPARE := $(VENV)/.ready-prepare
READY_STYLES := $(VENV)/.ready-styles
READY_PLAN := $(VENV)/.ready-plan
READY_GPU_PLAN := $(VENV)/.ready-gpu-plan
READY_NAMI1K := $(VENV)/.ready-nami1k
READY_NOTEBOOKS := $(VENV)/.ready-notebooks
READY_DEMO := $(VENV)/.ready-demo
READY_DEV := $(VENV)/.ready-dev
READY_DOCS := $(VENV)/.ready-docs
READY_TEST := $(READY_DEV) $(READY_NAMI1K) $(READY_DEMO) $(READY_DOCS) $(READY_NOTEBOOKS) $(if $(findstring Linux x86_64,$(shell uname -sm)),$(READY_PLAN))
READY_PARITY := $(VENV)/.ready-parity
READY_LAUNCH := $(LAUNCH_VENV)/.ready
TPU_COMPILER := $(VENV)/tpu_compiler
GPU_COMPILER := $(VENV)/gpu_compiler
STYLES := $(VENV)/styles
HAS_STYLES := $(findstring styles,$(notdir $(CONFIG)) $(ARGS))
PLANS_GPUS := $(filter a100% h100% h200%,$(TOPOLOGY))
LOCKS := requirements.txt $(if $(filter cpu,$(ACCELERATOR)),,requirements-$(ACCELERATOR).txt)

ifeq ($(filter cpu cuda tpu,$(ACCELERATOR)),)
$(error ACCELERATOR = '$(ACCELERATOR)': is not an accelerator. Set cpu, cuda or tpu)
endif

# Huge pages for the C heap: 15 to 20 % fewer seconds per training step on CPU.
ifeq ($(ACCELERATOR),cpu)
train bench: export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1
endif

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help train sample demo styles prepare nami1k plan notebooks docs docs-serve test test-all parity gpu-check launch-check lint format bench lock clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/:[^#]*## /\t/' | expand -t 14
	@printf '\nVariables: CONFIG, WORKDIR, CHECKPOINT, PROMPT, SOURCE, OUT, TOPOLOGY, ARGS, PYTHON, VENV, TORCH_INDEX, ACCELERATOR=cpu|cuda|tpu (here: %s)\n' '$(ACCELERATOR)'

train: $(READY) $(if $(HAS_STYLES),$(READY_STYLES))  ## train CONFIG in WORKDIR, or continue there; ARGS="--config.train.steps=2000" overrides a field
	$(BIN)/python -m nami_jax.train --config "$(CONFIG)" --workdir "$(WORKDIR)" $(ARGS)

sample: $(READY)  ## draw PROMPT into OUT, with CHECKPOINT, the run of CONFIG or, before there is one, the bundled model
	$(BIN)/python -m nami_jax.sample $(if $(CHECKPOINT),--checkpoint "$(CHECKPOINT)") --prompt "$$PROMPT" --out "$(OUT)" $(ARGS)

demo: $(READY_DEMO)  ## draw with CHECKPOINT in the browser, at 127.0.0.1:8200; ARGS="--port=8300 --most_images=4"
	$(BIN)/python -m nami_jax.demo $(if $(CHECKPOINT),--checkpoint "$(CHECKPOINT)") $(ARGS)

styles: $(READY_STYLES)  ## install the emoji of emoji_captions/styles_*, by npm; `make train CONFIG=configs/styles.py` does so itself

prepare: $(READY_PREPARE)  ## prepare images and captions of SOURCE for CONFIG: as pixels or latents, cropped to its sizes
	$(BIN)/python -m nami_jax.prepare --config "$(CONFIG)" $(if $(SOURCE),--source "$(SOURCE)") $(ARGS)

nami1k: $(READY_NAMI1K)  ## what NAMI-1K needs; then e.g. .venv/bin/python -m nami_jax.nami1k describe

plan: $(if $(PLANS_GPUS),$(READY_GPU_PLAN),$(READY_PLAN))  ## plan a run of CONFIG on TOPOLOGY, e.g. v5e:16x16 or h100:8x4, without them: memory, time, cost
	PYTHONPATH="$(if $(PLANS_GPUS),$(GPU_COMPILER),$(TPU_COMPILER))" $(BIN)/python -m nami_jax.plan --config "$(CONFIG)" --topology "$(TOPOLOGY)" $(ARGS)

# The environment has Jupyter's kernel and no nami_jax: the notebooks' first cell installs it from this checkout, by the pins.
notebooks:  ## run all notebooks in a new environment, and leave them with their pictures in build/notebooks
	rm -rf build/notebooks build/lib "$(NOTEBOOKS_VENV)"
	mkdir -p build/notebooks && cp notebooks/*.ipynb build/notebooks
	$(PYTHON) -m venv "$(NOTEBOOKS_VENV)"
	"$(NOTEBOOKS_VENV)/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps \
	  -r requirements-build.txt -r requirements-notebooks.txt
	PIP_CONSTRAINT="$(addprefix $(CURDIR)/,requirements.txt requirements-prepare.txt)" \
	  "$(NOTEBOOKS_VENV)/bin/python" notebooks/execute.py build/notebooks/*.ipynb

docs: $(READY_DOCS)  ## build these pages as a site into build/docs; a link that leads nowhere is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build $(ARGS)
	@echo "Open build/docs/index.html, or run make docs-serve, whose pages can be searched."

docs-serve: $(READY_DOCS)  ## show that site at 127.0.0.1:8000, and again whenever a page changes
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs serve $(ARGS)

test: $(READY_TEST)  ## run the tests but the slow ones: 10 to 20 minutes on two cores; ARGS="-k jump" picks tests
	$(BIN)/python -m pytest -m "not slow" $(ARGS)

test-all: $(READY_TEST)  ## run all tests, as CI does
	$(BIN)/python -m pytest $(ARGS)

parity:  ## compare with transformers and diffusers, run live in an environment of their own (downloads torch)
	@$(MAKE) --no-print-directory VENV="$(PARITY_VENV)" ACCELERATOR=cpu "$(PARITY_VENV)/.ready-parity"
	$(PARITY_VENV)/bin/python -m pytest tests/live $(ARGS)
	$(PARITY_VENV)/bin/python -m nami_jax.parity tests/golden/nami_tiny

gpu-check: $(READY_DEV) $(READY_GPU_PLAN)  ## compile a small run for GPUs that are not here and look for cuDNN's kernel (downloads 650 MB)
	$(BIN)/python -m pytest tests/test_plan.py -k gpus $(ARGS)

launch-check: $(READY_LAUNCH)  ## parse the launchers' commands by xpk and SkyPilot, in an environment of their own
	$(LAUNCH_VENV)/bin/python -m pytest tests/live/test_launch_live.py $(ARGS)

lint: $(READY_DEV) $(READY_NAMI1K) $(READY_DEMO) $(READY_NOTEBOOKS)  ## check style (ruff) and types (pyright)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/python -m pyright --pythonpath $(BIN)/python

format: $(READY_DEV)  ## rewrite the code in the project's style
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: $(READY)  ## time sampling against the single-stage baseline, and the training step
	$(BIN)/python -m benchmarks.inference
	$(BIN)/python -m benchmarks.train_step

lock: $(READY_DEV)  ## resolve pyproject.toml again into requirements*.txt
	@for extra in cuda tpu prepare styles nami1k demo notebooks dev docs; do $(BIN)/python -c 'import sys, tomllib; print(*tomllib.load( \
	  sys.stdin.buffer)["project"]["optional-dependencies"][sys.argv[1]], sep="\n")' $$extra \
	  < pyproject.toml > $(VENV)/$$extra.in; done
	$(call resolve,$(VENV)/all.txt,--group weights --extra prepare pyproject.toml)
	$(call resolve,requirements.txt,--group weights pyproject.toml -c $(VENV)/all.txt)
	$(call resolve,requirements-cuda.txt,$(VENV)/cuda.in -c requirements.txt)
	$(call resolve,requirements-tpu.txt,$(VENV)/tpu.in -c requirements.txt)
	$(call resolve,requirements-prepare.txt,$(VENV)/prepare.in -c requirements.txt)
	$(call resolve,requirements-styles.txt,$(VENV)/styles.in)
	$(call resolve,requirements-nami1k.txt,$(VENV)/nami1k.in -c requirements.txt -c requirements-prepare.txt)
	$(call resolve,requirements-demo.txt,$(VENV)/demo.in -c requirements.txt -c requirements-prepare.txt -c requirements-nami1k.txt)
	$(call resolve,requirements-dev.txt,$(VENV)/dev.in -c requirements.txt -c requirements-prepare.txt \
	  -c requirements-styles.txt -c requirements-nami1k.txt -c requirements-demo.txt)
	$(call resolve,requirements-docs.txt,$(VENV)/docs.in -c requirements.txt -c requirements-prepare.txt -c requirements-dev.txt)
	$(call resolve,requirements-notebooks.txt,$(VENV)/notebooks.in -c requirements.txt -c requirements-prepare.txt \
	  -c requirements-nami1k.txt -c requirements-dev.txt -c requirements-docs.txt)
	@$(INSTALL) --no-deps -r requirements-styles.txt
	@mkdir -p $(STYLES) && cp package.json $(STYLES) && rm -f $(STYLES)/package-lock.json
	@$(call npm,install --package-lock-only) && cp $(STYLES)/package-lock.json .
	@grep -hv '^protobuf==' requirements.txt requirements-dev.txt | grep '==' > $(VENV)/but-protobuf.txt
	$(call resolve,requirements-parity.txt,--group parity -c $(VENV)/but-protobuf.txt)
	$(call resolve,requirements-launch.txt,--group launch)

clean:  ## delete the virtual environment and caches, never runs/ or data/
	rm -rf .venv .venv-* .pytest_cache .ruff_cache build *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The first of them only binds the others: without apache-beam too, versions are those that it can live with.
# A universal resolution: one file serves every supported Python version.
resolve = $(BIN)/uv pip compile --quiet --universal --upgrade --python-version 3.11 --custom-compile-command "make lock" \
	--output-file $(1) $(2)

# It finds its node in PATH. The lock names packages by their hashes, and no registry.
npm = (PATH="$(abspath $(BIN)):$$PATH" && cd $(STYLES) && \
	npm $(1) --loglevel=error --ignore-scripts --no-audit --no-fund --omit-lockfile-registry-resolved=true)

# uv takes a fraction of pip's time, but reads none of pip's settings (an index of your own, proxies): where it fails, pip does it.
install_fast = $(BIN)/uv pip install --quiet --python $(BIN)/python $(1) 2>> $(VENV)/uv.log || $(INSTALL) --use-pep517 $(1)

# Made from nothing each time, so that it never holds what an earlier lock or another accelerator asked for.
# --no-deps: the locks name every package, and MiniLM's weights would pull torch.
$(LOCKED): requirements-build.txt $(LOCKS)
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { \
	  echo "PYTHON = '$(PYTHON)': nami_jax needs Python 3.11 to 3.13. Set e.g. make PYTHON=python3.11." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || { \
	  echo "PYTHON = '$(PYTHON)': it cannot create virtual environments. Install its venv module (Debian: apt install python3-venv)." >&2; exit 1; }
	@test ! -e $(VENV) || test -e $(VENV)/pyvenv.cfg || { \
	  echo "VENV = '$(VENV)': exists and is not a virtual environment. Set a folder that does not exist." >&2; exit 1; }
	@echo "Installing into $(VENV) for $(ACCELERATOR) ..."
	@$(PYTHON) -m venv --clear $(VENV)
	@$(INSTALL) -r requirements-build.txt
	@$(INSTALL) "$$(grep '^uv==' requirements-dev.txt)" 2> $(VENV)/uv.log || true
	@$(call install_fast,--no-deps --no-build-isolation $(addprefix -r ,$(LOCKS)))
	@touch $@

$(READY): $(LOCKED) pyproject.toml
	@$(call install_fast,--no-deps --no-build-isolation --editable .)
	@touch $@

$(READY_PREPARE): $(READY) requirements-prepare.txt
	@$(INSTALL) --no-deps -r requirements-prepare.txt
	@touch $@

# `npm ci` makes node_modules from nothing, by the lock.
$(READY_STYLES): $(READY) requirements-styles.txt package.json package-lock.json
	@$(INSTALL) --no-deps -r requirements-styles.txt
	@mkdir -p $(STYLES) && cp package.json package-lock.json $(STYLES)
	@echo "Installing emoji into $(STYLES) (140 MB) ..."
	@$(call npm,ci)
	@touch $@

$(READY_NAMI1K): $(READY) requirements-nami1k.txt
	@$(INSTALL) --no-deps -r requirements-nami1k.txt
	@touch $@

$(READY_DEMO): $(READY) requirements-demo.txt
	@$(INSTALL) --no-deps -r requirements-demo.txt
	@touch $@

# Apart from the other packages: where jax finds libtpu, it looks for a TPU at every start.
$(READY_PLAN): $(READY) requirements-tpu.txt
	@grep '^libtpu' requirements-tpu.txt > $(VENV)/libtpu.txt
	@rm -rf $(TPU_COMPILER)
	@$(INSTALL) --no-deps --target $(TPU_COMPILER) -r $(VENV)/libtpu.txt
	@touch $@

# Of what jax[cuda13] asks for, what compiles without a GPU. Apart for the same reason.
$(READY_GPU_PLAN): $(READY) requirements-cuda.txt
	@echo "Installing the compiler for GPUs into $(GPU_COMPILER) (650 MB) ..."
	@grep -E '^(jax-cuda13-(pjrt|plugin)|nvidia-cudnn-cu13)==' requirements-cuda.txt > $(VENV)/gpu-compiler.txt
	@rm -rf $(GPU_COMPILER)
	@$(INSTALL) --no-deps --target $(GPU_COMPILER) -r $(VENV)/gpu-compiler.txt
	@touch $@

$(READY_NOTEBOOKS): $(READY) requirements-notebooks.txt
	@$(INSTALL) --no-deps -r requirements-notebooks.txt
	@touch $@

$(READY_DEV): $(READY_PREPARE) requirements-dev.txt
	@$(INSTALL) --no-deps -r requirements-dev.txt
	@touch $@

$(READY_DOCS): $(READY) requirements-docs.txt
	@$(INSTALL) --no-deps -r requirements-docs.txt
	@touch $@

$(READY_LAUNCH): requirements-launch.txt
	@$(PYTHON) -m venv --clear $(LAUNCH_VENV)
	@$(LAUNCH_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-launch.txt
	@touch $@

# torch first, from its own index if there is one: what has been installed satisfies the second line.
$(READY_PARITY): $(READY) requirements-parity.txt
	@grep '^torch==' requirements-parity.txt > $(VENV)/torch.txt
	@$(INSTALL) --no-deps $(if $(TORCH_INDEX),--index-url "$(TORCH_INDEX)") -r $(VENV)/torch.txt
	@$(INSTALL) --no-deps -r requirements-parity.txt
	@$(BIN)/python -c 'import torch' || { \
	  echo "TORCH_INDEX = '$(TORCH_INDEX)': the torch found there does not load. Set a package index that has CPU builds." >&2; exit 1; }
	@touch $@
