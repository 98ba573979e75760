# Everything is done through this file, by people and by CI (.ci/run).

PYTHON ?= python3
PORT ?= 8000
DATA ?= data
CLUSTER ?= conf/cluster-local.yaml

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.made

.PHONY: help run test test-slow setup fmt lint types layers check bench bench-cassandra cluster-up cluster-down
.DEFAULT_GOAL := help

help:
	@echo "make run     a server with a demo volume on http://127.0.0.1:$(PORT) (PORT=, DATA=)"
	@echo "make test    all tests but the slow ones"
	@echo "make test-slow  tests that operate Cassandra nodes for minutes"
	@echo "make check   format, lint, types and layers, in seconds"
	@echo "make fmt     format and fix what can be fixed"
	@echo "make bench   the benchmarks, one after the other; make bench-cassandra: on three nodes"
	@echo "make cluster-up, make cluster-down"
	@echo "             three Cassandra nodes on this machine (CLUSTER=), stopped again"
	@echo "make setup   the virtual environment in $(VENV) (PYTHON= chooses the interpreter)"

run: $(STAMP)
	$(BIN)/ndcass serve --demo --data "$(DATA)" --port "$(PORT)"

test: $(STAMP)
	$(BIN)/python tools/run_tests.py

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow

setup: $(STAMP)

# Nothing is done while setup.py and pyproject.toml are older than the stamp.
$(STAMP): setup.py pyproject.toml
	@$(PYTHON) tools/check_python.py || { \
		echo "Choose another with: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@$(BIN)/python -c "" 2>/dev/null || $(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python tools/check_python.py || { \
		echo "Remove $(VENV) and run make again." >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $(STAMP)

fmt: $(STAMP)
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/python tools/typecheck.py

layers: $(STAMP)
	$(BIN)/python -m pytest --quiet tests/test_layers.py

check: lint types layers

bench: $(STAMP)
	$(BIN)/python -m pytest bench --benchmark-enable --benchmark-only --benchmark-columns=median,ops --benchmark-sort=name
	$(BIN)/python -m bench.end_to_end --output build/bench.json
	$(BIN)/python -m bench.pyramid --output build/bench-pyramid.json
	$(BIN)/python -m bench.labels --output build/bench-labels.json
	$(BIN)/python -m bench.objects --output build/bench-objects.json

bench-cassandra: $(STAMP)
	$(BIN)/python -m bench.on_cassandra --output build/bench-cassandra.json

cluster-up: $(STAMP)
	$(BIN)/ndcass cluster up $(CLUSTER)

cluster-down: $(STAMP)
	$(BIN)/ndcass cluster down $(CLUSTER)
