# make demo: the main job on generated data.  make test: everything that CI checks.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint types imports pytest bench clean

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet -e .
	touch $@

.venv/dev: .venv/installed
	$(BIN)/python -m pip install --quiet --group dev
	touch $@

demo: .venv/installed
	$(BIN)/stream-gmm demo-data demo/data
	$(BIN)/stream-gmm run configs/quickstart.yaml

test: lint types imports pytest

lint: .venv/dev
	$(BIN)/ruff check .

types: .venv/dev
	$(BIN)/mypy

imports: .venv/dev
	$(BIN)/lint-imports

pytest: .venv/dev
	$(BIN)/python -m pytest $(PYTEST_ARGS)

bench: .venv/dev
	$(BIN)/python -m benchmarks.pass_speed
	$(BIN)/python -m benchmarks.pass_parquet
	$(BIN)/python -m benchmarks.sweep_shared

clean:
	rm -rf .venv demo runs
