# Two commands: `make serve` and `make test`. Both set up what they need in .venv.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
SHELL  := /bin/sh
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help serve install test lint test-soak test-gpu bench bench-gpu stubs clean

help:            ## what there is to make
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 14

# Dependency groups need pip 25.1.
$(VENV)/.pip:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade 'pip>=25.1'
	@touch $@

$(VENV)/.service: pyproject.toml | $(VENV)/.pip
	@echo "installing the service into $(VENV)"
	$(BIN)/pip install --quiet --editable '.[cpu]'
	@touch $@

# One pip call, so that a CPU torch is chosen together with everything that depends on it.
$(VENV)/.dev: pyproject.toml | $(VENV)/.pip
	@echo "installing everything for development into $(VENV), PyTorch included: a few minutes the first time"
	$(BIN)/pip install --quiet --editable '.[bench,cpu]' --group dev
	@touch $@ $(VENV)/.service

install: $(VENV)/.dev  ## everything for development, torch included

serve: $(VENV)/.service  ## serve the bundled models on 127.0.0.1:50051 (no torch needed)
	$(BIN)/armoire serve $(ARGS)

lint: $(VENV)/.dev  ## ruff, mypy --strict, import-linter, buf, generated stubs up to date
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	cd proto && ../$(BIN)/buf lint
	$(BIN)/python proto/generate.py --check

test: lint  ## lint, then every test that fits in CI
	$(BIN)/pytest --cov --cov-report=term --cov-fail-under=95

test-soak: $(VENV)/.dev  ## 200,000 hostile inputs, floods, half an hour under load (about an hour and a half)
	$(BIN)/pytest tests/soak --hypothesis-profile=soak --timeout=14400 --soak-json=soak.json --soak-png=soak.png $(ARGS)

bench: $(VENV)/.dev  ## the service against bare ONNX Runtime and bare grpc.aio, on a core of its own (about 9 minutes)
	$(BIN)/python -m tests.load.compare $(ARGS)

# onnxruntime and onnxruntime-gpu provide the same module, so the GPU has an environment of its own.
.venv-gpu/.test: pyproject.toml
	$(PYTHON) -m venv .venv-gpu
	.venv-gpu/bin/pip install --quiet --upgrade 'pip>=25.1'
	.venv-gpu/bin/pip install --quiet --editable '.[cuda]' --group test
	@touch $@

test-gpu: .venv-gpu/.test  ## the tests that need an NVIDIA GPU and its driver
	.venv-gpu/bin/pytest -m gpu tests/gpu

bench-gpu: .venv-gpu/.test  ## Decode on an NVIDIA GPU at 1, 32, 128 and 512 rows, fp32 and fp16, with CUDA graphs and without
	.venv-gpu/bin/python -m tests.gpu.bench $(ARGS)

stubs: $(VENV)/.dev  ## write service/armoire/v1 from proto/
	$(BIN)/python proto/generate.py

clean:           ## remove what make made
	rm -rf build $(VENV) .venv-gpu .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage
