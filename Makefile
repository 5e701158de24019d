# make demo: images to a designed, trained and exported network.   make test: lint, types and all tests.
# Both make the environment first; all they need is Python 3.11.

PYTHON ?= python3.11
BIN := .venv/bin
OUTPUT ?= demo

.PHONY: demo test lint format clean

.venv/done: requirements.lock setup.py
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

demo: .venv/done
	$(BIN)/asvit run --output $(OUTPUT)

lint: .venv/done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest

format: .venv/done
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv
