# make demo: images to a designed, trained and exported network.   make test: lint, types and all tests.
# Both make the environment first; all they need is Python 3.11.

PYTHON ?= python3.11
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
OUTPUT ?= demo

.PHONY: demo test lint format clean

# Two dependencies come as source only; their builders are pinned too, or a new release of one stops the installation.
.venv/done: requirements.lock setup.py
	$(PYTHON) -m venv .venv
	$(PIP) --constraint requirements.lock setuptools setuptools-scm wheel
	$(PIP) --no-build-isolation --requirement requirements.lock
	$(PIP) --no-build-isolation --no-deps --editable .
	touch $@

demo: .venv/done
	$(BIN)/asvit run --output $(OUTPUT)

lint: .venv/done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

test: lint
	$(BIN)/python -m pytest

format: .venv/done
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv
