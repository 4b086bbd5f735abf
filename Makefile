# Everything runs in .venv, made on first use. On Windows use the plain commands of the README.
#
#   make demo      animate the picture that ships here            make test   every test, and the lint
#   make comfyui   start ComfyUI with this pack                   make lint   ruff alone
#   make experiments   the paper's experiments: minutes on a GPU, a small form on a CPU
#
# Overridable: PYTHON, VENV, TORCH, COMFYUI_PATH, COMFYUI_ARGS, TEST_WORKERS, PYTEST_ARGS, DEMO_ARGS, EXPERIMENTS_ARGS.

SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
# The set that this version was tested with; ComfyUI needs all three. Any later set that belongs together will do.
TORCH ?= torch==2.11.0 torchvision==0.26.0 torchaudio==2.11.0
# Processes that test side by side, each with a ComfyUI of its own; one where tests measure an NVIDIA GPU's memory and time.
TEST_WORKERS ?= $$(command -v nvidia-smi >/dev/null && echo 1 || $(PY) -c 'import os; print(min(os.cpu_count() or 1, 4))')
COMFYUI_PATH ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/stableanimator/ComfyUI
COMFYUI_REPOSITORY ?= https://github.com/comfyanonymous/ComfyUI

PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --quiet --disable-pip-version-check
# The page is tested where a Chromium is on the PATH; Playwright then steers it and downloads no other.
CHROMIUM_FOUND := $(firstword $(foreach name,chromium chromium-browser google-chrome google-chrome-stable,$(shell command -v $(name))))
COMFYUI_FOUND := $(wildcard $(COMFYUI_PATH)/main.py)
# Linux without an NVIDIA GPU: the CPU builds of torch save gigabytes, where their index can be reached.
CPU_INDEX := https://download.pytorch.org/whl/cpu
FIND_CPU_INDEX = if [ "$$(uname -s)" = Linux ] && ! command -v nvidia-smi >/dev/null \
	&& curl --silent --fail --head --max-time 10 --output /dev/null $(CPU_INDEX)/torch/; \
	then echo "--extra-index-url $(CPU_INDEX)"; fi

.PHONY: demo doctor experiments test lint comfyui comfyui-tests-note clean
.DEFAULT_GOAL := demo

$(VENV)/.installed: requirements.txt
	@echo "Installing torch and the requirements into $(VENV) (a few minutes, once)"
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or later is needed: make PYTHON=...")'
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PIP) $$($(FIND_CPU_INDEX)) $(TORCH) -r requirements.txt
	@touch $@

$(VENV)/.installed-tests: $(VENV)/.installed Makefile
	$(PIP) pytest pytest-cov pytest-xdist ruff torchmetrics onnx
	@touch $@

$(VENV)/.installed-comfyui: $(VENV)/.installed $(COMFYUI_PATH)/requirements.txt
	@echo "Installing ComfyUI's requirements into $(VENV) (a minute, once)"
	$(PIP) $(TORCH) -r $(COMFYUI_PATH)/requirements.txt websocket-client
	@touch $@

$(COMFYUI_PATH)/requirements.txt:
	git clone --depth 1 $(COMFYUI_REPOSITORY) "$(COMFYUI_PATH)"

demo: $(VENV)/.installed
	$(PY) -m stableanimator_core demo $(DEMO_ARGS)

doctor: $(VENV)/.installed
	$(PY) -m stableanimator_core doctor

experiments: $(VENV)/.installed
	$(PY) -m stableanimator_core experiments $(EXPERIMENTS_ARGS)

$(VENV)/.installed-browser: $(VENV)/.installed
	$(PIP) playwright
	@touch $@

test: lint $(VENV)/.installed-tests $(if $(COMFYUI_FOUND),$(VENV)/.installed-comfyui,comfyui-tests-note)
test: $(if $(and $(COMFYUI_FOUND),$(CHROMIUM_FOUND)),$(VENV)/.installed-browser)
	COMFYUI_PATH="$(COMFYUI_PATH)" $(PY) -m pytest -n $(TEST_WORKERS) --dist loadfile --cov --cov-report=term:skip-covered $(PYTEST_ARGS)

comfyui-tests-note:
	@echo "NOTE: no ComfyUI at $(COMFYUI_PATH): the tests inside ComfyUI are SKIPPED."
	@echo "      'make comfyui' gets it, or say where yours is: make test COMFYUI_PATH=..."

lint: $(VENV)/.installed-tests
	$(PY) -m ruff check .

# The pack is handed over as a further custom_nodes folder: nothing is copied or linked into ComfyUI's own.
comfyui: $(VENV)/.installed-comfyui
	@mkdir -p $(VENV)/comfyui/custom_nodes
	@ln -sfn "$(CURDIR)" $(VENV)/comfyui/custom_nodes/stableanimator-pp
	@printf 'stableanimator:\n  base_path: %s\n  custom_nodes: custom_nodes\n' "$(abspath $(VENV))/comfyui" > $(VENV)/comfyui/paths.yaml
	@if ls -d "$(COMFYUI_PATH)"/custom_nodes/*/stableanimator_core >/dev/null 2>&1; then rm $(VENV)/comfyui/custom_nodes/stableanimator-pp; fi
	@echo "When ComfyUI is up: open http://127.0.0.1:8188, then Workflow > Browse Templates > stableanimator-pp > built-in quick start."
	$(PY) "$(COMFYUI_PATH)/main.py" --extra-model-paths-config $(VENV)/comfyui/paths.yaml \
		$$($(PY) -c 'import torch; print("" if torch.cuda.is_available() or torch.backends.mps.is_available() else "--cpu")') $(COMFYUI_ARGS)

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .coverage
