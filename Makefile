# make demo: the main job on generated data.  make test: lint, types, import rules, tests.
# make quick: without tests of more than about a second.  make test-all: also those of more than about eight, as in CI.
PYTHON ?= python3
BIN := .venv/bin
# Two worker processes, each file on one of them; plain pytest runs in one process.
WORKERS ?= 2
PYTEST := $(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile --no-loadscope-reorder

.PHONY: demo quick test test-all lint types imports pytest pytest-all pytest-quick test-lowest docs audit bench clean

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet -e '.[plot,prefect]'
	touch $@

.venv/dev: .venv/installed
	$(BIN)/python -m pip install --quiet --group dev
	touch $@

demo: .venv/installed
	$(BIN)/stream-gmm demo-data demo/data
	$(BIN)/stream-gmm run configs/quickstart.yaml

# Ruff answers within a second and goes first; types and imports are checked beside the tests.
test: lint
	@$(MAKE) --no-print-directory -j 3 --output-sync=target types imports pytest

test-all: lint
	@$(MAKE) --no-print-directory -j 3 --output-sync=target types imports pytest-all

quick: lint
	@$(MAKE) --no-print-directory -j 3 --output-sync=target types imports pytest-quick

lint: .venv/dev
	$(BIN)/ruff check .

types: .venv/dev
	$(BIN)/mypy

imports: .venv/dev
	$(BIN)/lint-imports

pytest: .venv/dev
	$(PYTEST) -m "not long" $(PYTEST_ARGS)

pytest-all: .venv/dev
	$(PYTEST) $(PYTEST_ARGS)

pytest-quick: .venv/dev
	$(PYTEST) -m "not slow and not long and not prefect" --hypothesis-profile quick $(PYTEST_ARGS)

.venv/docs: .venv/dev
	$(BIN)/python -m pip install --quiet --group docs
	touch $@

# The documentation site, into .site/; a warning is an error.
docs: .venv/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

# The site, and the report of the demo, in headless Chromium; needs node, npm and a Chromium (CHROMIUM=path).
audit: docs demo
	mkdir -p .audit/report && cp demo/run/report.html .audit/report/
	cd .audit && npm install --silent --no-save playwright-core@1 axe-core@4
	cd .audit && node ../.ci/audit.mjs ../.site report

# The lowest version of every dependency, in an environment of its own; numba compiles everything once more, into a
# cache of its own: two versions of numba that share one spoil it for each other.
test-lowest:
	$(PYTHON) -m venv .venv-lowest
	$(PYTHON) .ci/lowest.py > .venv-lowest/constraints.txt
	.venv-lowest/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	.venv-lowest/bin/python -m pip install --quiet -c .venv-lowest/constraints.txt -e '.[plot,prefect]' --group dev
	NUMBA_CACHE_DIR=.venv-lowest/numba .venv-lowest/bin/python -m pytest -q -m "not slow and not long and not prefect" --hypothesis-profile quick $(PYTEST_ARGS)

bench: .venv/dev
	$(BIN)/python -m benchmarks.pass_speed
	$(BIN)/python -m benchmarks.pass_parquet
	$(BIN)/python -m benchmarks.sweep_shared

clean:
	rm -rf .venv .venv-lowest .site .audit demo runs
