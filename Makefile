# make demo: images to a designed, trained and exported network.   make test: lint, types and all tests.
# Both make the environment first; all they need is Python 3.11.
# make tpu-env, make gpu-env: environments for a TPU VM and for a GPU host.   make tpu-test: what can be tested of TPUs without one.

PYTHON ?= python3.11
BIN := .venv/bin
PIP_FLAGS := --quiet --disable-pip-version-check
PIP := $(BIN)/python -m pip install $(PIP_FLAGS)
OUTPUT ?= demo

.PHONY: demo test lint format clean tpu-env gpu-env tpu-test

# Two dependencies come as source only; their builders are pinned too, or a new release of one stops the installation.
.venv/done: requirements.lock setup.py
	$(PYTHON) -m venv .venv
	$(PIP) --constraint requirements.lock setuptools setuptools-scm wheel
	$(PIP) --no-build-isolation --requirement requirements.lock
	$(PIP) --no-build-isolation --no-deps --editable .
	touch $@

# These locks are whole, and hold another TensorFlow than the packages ask for: no dependencies are followed.
.venv-%/done: requirements-%.lock setup.py
	$(PYTHON) -m venv .venv-$*
	.venv-$*/bin/python -m pip install $(PIP_FLAGS) --constraint $< setuptools setuptools-scm wheel
	.venv-$*/bin/python -m pip install $(PIP_FLAGS) --no-build-isolation --no-deps --requirement $<
	.venv-$*/bin/python -m pip install $(PIP_FLAGS) --no-build-isolation --no-deps --editable .
	touch $@

tpu-env: .venv-tpu/done
	.venv-tpu/bin/asvit doctor

gpu-env: .venv-gpu/done
	.venv-gpu/bin/asvit doctor

demo: .venv/done
	$(BIN)/asvit run --output $(OUTPUT)

lint: .venv/done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

test: lint
	$(BIN)/python -m pytest

# On a machine without a TPU; the variables keep tensorflow-tpu from asking Google's cloud for one. It has no XLA for CPUs.
tpu-test: .venv-tpu/done
	TPU_ACCELERATOR_TYPE=v5litepod-4 TPU_WORKER_HOSTNAMES=localhost TPU_SKIP_MDS_QUERY=1 TPU_WORKER_ID=0 \
	.venv-tpu/bin/python -m pytest tests/doctor tests/modeling/test_backbone.py tests/tasks/test_configs.py \
		tests/training/test_training.py -k "not xla and not gpu"

format: .venv/done
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .venv-tpu .venv-gpu
