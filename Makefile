# Everything a newcomer needs: `make run`, `make test`, `make help`.
SHELL := /bin/bash
.DEFAULT_GOAL := help

PYTHON ?= python3
SPEC ?= pipelines/examples/flights/shipway.yaml
RUNNER ?= subprocess
ARGS ?=
LOCK := containers/requirements.lock
UV_VERSION := $(shell sed -n 's/^uv==\([0-9.]*\).*/\1/p' containers/build.lock)
UV := $(shell command -v uv 2>/dev/null || echo .tools/bin/uv)
BIN := .venv/bin
READY := .venv/.ready
# Two at a time, a file in one process: most tests wait for processes of their own.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile

# Images: what they are built on, torch for CUDA or for CPU only (with the place of its wheel), and whose project is in them.
BASE_IMAGE ?=
TORCH ?= cuda
WHEELS ?=
PROJECT ?= $(patsubst %/,%,$(dir $(SPEC)))
REPOSITORY ?= shipway
IMAGES := $(PYTHON) containers/images.py

DEMO := pipelines/examples/flights/demo

.PHONY: help setup run demo-rollout demo-drift test test-fast lint format compile images push bench-images bench-serve bench-drift bench-predict bench-trigger serve down lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## make .venv from the committed lock, with uv (installed to .tools if absent)

.tools/bin/uv:
	@rm -rf .tools
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target .tools uv==$(UV_VERSION) \
	  || { $(PYTHON) -m venv .tools && .tools/bin/python -m pip install --quiet uv==$(UV_VERSION); }

# The mark comes last: a .venv that a killed call left half done has none, and is made anew.
$(READY): $(LOCK) pyproject.toml | $(if $(findstring .tools,$(UV)),.tools/bin/uv)
	@echo "making .venv (a few GB with torch; minutes on a slow network)"
	@$(UV) venv --quiet --clear --python $(PYTHON) .venv
	@$(UV) pip sync --quiet --python $(BIN)/python --require-hashes --compile-bytecode $(LOCK)
	@$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

run: $(READY) $(if $(filter docker,$(RUNNER)),images) ## train, judge, register and serve the example (SPEC=..., RUNNER=subprocess|docker, ARGS=...)
	@$(BIN)/shipway run $(SPEC) --runner $(RUNNER) --repository $(REPOSITORY) $(ARGS)

demo-rollout: $(READY) ## roll a good version out under load, and three bad ones back; pages in build/demo-rollout
	@$(BIN)/python $(DEMO)/demo.py

demo-drift: $(READY) ## a month that differs: monitoring finds it and one retraining follows, whatever is killed (build/demo-drift)
	@$(BIN)/python $(DEMO)/drift.py

test: $(READY) ## run the whole test suite
	$(PYTEST)

test-fast: $(READY) ## run the tests that take no more than moments
	$(PYTEST) -m "not slow"

lint: $(READY) ## check style, types, layers, YAML and the examples' specs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --config pyproject.toml
	$(BIN)/hadolint containers/Dockerfile
	$(BIN)/yamllint --strict --config-file .ci/yamllint.yaml pipelines manifests .ci .github
	for spec in pipelines/examples/*/shipway.yaml; do $(BIN)/shipway spec check $$spec || exit 1; done

format: $(READY) ## put the code into the house's form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

compile: $(READY) ## compile every example's pipelines to build/pipelines/EXAMPLE/ (ARGS=--target vertex ...)
	@for spec in pipelines/examples/*/shipway.yaml; do for pipeline in training promotion rollback inference monitoring; do \
	  $(BIN)/shipway compile $$spec --pipeline $$pipeline $(ARGS) \
	    --output build/pipelines/$$(basename $$(dirname $$spec))/$$pipeline.yaml || exit 1; done; done

images: ## build the container images (PROJECT=folder for /opt/project, TORCH=cuda|cpu, WHEELS=, BASE_IMAGE=)
	@$(IMAGES) build --repository "$(REPOSITORY)" --project "$(PROJECT)" --torch "$(TORCH)" --wheels "$(WHEELS)" --base "$(BASE_IMAGE)"

push: ## push the images to REGISTRY and write build/images.json, their names with digests
	@$(IMAGES) push --repository "$(REPOSITORY)" --registry "$(or $(REGISTRY),$(error REGISTRY=... says where to push))"

bench-images: $(READY) ## print the images' sizes and what they cost to start (after make images SPEC=the penguins' spec)
	@$(BIN)/python containers/bench.py --repository "$(REPOSITORY)" --tag "$$($(BIN)/shipway version)"

bench-serve: $(READY) .bench/kserve/.ready .bench/package/MLmodel ## measure the server beside MLflow's, KServe's and bare ASGI (ROUNDS=5 SECONDS=4)
	@command -v wrk >/dev/null || if [ "$$(id -u)" = 0 ]; then apt-get -qq update && apt-get -qq install -y wrk >/dev/null; \
	  else echo "wrk is not installed; as root: apt-get install wrk" >&2; exit 1; fi
	@$(BIN)/python tests/bench/serve.py --rounds $(or $(ROUNDS),5) --seconds $(or $(SECONDS),4)

.bench/kserve/.ready: tests/bench/kserve.txt | $(READY) $(if $(findstring .tools,$(UV)),.tools/bin/uv)
	@$(UV) venv --quiet --clear --python $(PYTHON) .bench/kserve
	@$(UV) pip sync --quiet --python .bench/kserve/bin/python --compile-bytecode tests/bench/kserve.txt
	@touch $@

.bench/package/MLmodel: | $(READY)
	@echo "training the flights example once, for its package"
	@$(BIN)/shipway run pipelines/examples/flights/shipway.yaml --state .bench/state --runs .bench/runs
	@$(BIN)/shipway down --state .bench/state
	@rm -rf .bench/package && cp -r "$$(find .bench/state/artifacts -path '*/train/model' -type d | head -1)" .bench/package

bench-drift: $(READY) .bench/nannyml/.ready ## measure drift of 1M rows by 11 columns beside Evidently and NannyML (ROUNDS=3)
	@$(BIN)/python tests/bench/drift.py --rounds $(or $(ROUNDS),3)

.bench/nannyml/.ready: tests/bench/nannyml.txt | $(READY) $(if $(findstring .tools,$(UV)),.tools/bin/uv)
	@$(UV) venv --quiet --clear --python $(PYTHON) .bench/nannyml
	@$(UV) pip sync --quiet --python .bench/nannyml/bin/python --compile-bytecode tests/bench/nannyml.txt
	@touch $@

bench-predict: $(READY) ## score 10 million rows beside mlflow.pyfunc over chunks of pandas: seconds and memory (ROWS=10000000 ROUNDS=3)
	@$(BIN)/python tests/bench/predict.py --rows $(or $(ROWS),10000000) --rounds $(or $(ROUNDS),3)

bench-trigger: $(READY) ## send 1,000 alerts a second to the trigger service for 30 s: latency, memory, what is in its store (RATE=1000 SECONDS=30)
	@$(BIN)/python tests/bench/trigger.py --rate $(or $(RATE),1000) --seconds $(or $(SECONDS),30)

serve: $(READY) ## serve the staged model of SPEC in the foreground (MODEL=name[@version])
	$(BIN)/shipway serve $(or $(MODEL),$(shell sed -n 's/^name: *//p' $(SPEC)))

down: $(READY) ## stop the staging endpoints that runs left behind
	$(BIN)/shipway down

lock: | $(if $(findstring .tools,$(UV)),.tools/bin/uv) ## resolve the dependencies anew into the lock files, the images' too
	$(PYTHON) containers/lock.py --uv $(UV)

clean: ## remove what runs and builds left (not .venv): runs, state, registry; stops the endpoints first
	@if [ -x $(BIN)/shipway ] && [ -d .shipway ]; then $(BIN)/shipway down; fi
	rm -rf .shipway runs build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .bench
