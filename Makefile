# Two commands set everything up, in .venv and nowhere else: `make serve` and `make test`.
#
#   make serve [PORT=8000]   serve the shipped models on 127.0.0.1
#   make test [TESTS=...]    run the quick tests, or some of them: they need no torch, no browser and no Docker
#   make test-all [TESTS=...]  run every test, or some; installs torch
#   make test-torch TORCH=2.8.0  the exporter's tests with one release of torch, in .venv-torch
#   make lint                ruff, its formatter and mypy
#   make client              generate the blocking client from the asynchronous one
#   make bench [BENCH=--quick]  measure against the ceilings and other servers
#   make image               build the container image
#   make clean               remove .venv and what the tools leave behind

HOST ?= 127.0.0.1
PORT ?= 8000
MODELS ?= models/store
IMAGE ?= elman
TESTS ?=
WORKERS ?= auto
# One release of torch, in the range of pyproject.toml: which others there are differs by machine.
TORCH ?= 2.13.0
BENCH ?=

# The first Python on the path that is new enough, unless PYTHON= names one.
NEW_ENOUGH := -c 'import sys; sys.exit(sys.version_info < (3, 11))'
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11 python3.14 python; do \
	$$python $(NEW_ENOUGH) 2>/dev/null && echo $$python && break; done)

BIN := .venv/bin
# A file's tests stay in one process, so that its servers are started once.
PYTEST := $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.DEFAULT_GOAL := serve
.PHONY: serve test test-all test-torch lint client bench image clean

# The recipes hand over to the program (exec), so that Ctrl-C and SIGTERM reach it.
serve: .venv/.server
	@exec $(BIN)/elman serve $(MODELS) --host $(HOST) --port $(PORT)

test: .venv/.test
	@exec $(PYTEST) -m quick $(TESTS)

test-all: .venv/.test-all
	@exec $(PYTEST) $(TESTS)

# An environment of its own, so that .venv keeps its torch. To be run with both ends of the range in pyproject.toml.
test-torch: .venv/.made
	@.venv/bin/python -m venv --clear .venv-torch
	@.venv-torch/bin/python -m pip --disable-pip-version-check --quiet install \
		torch==$(TORCH) --editable '.[test,train]'
	@exec .venv-torch/bin/python -m pytest tests/exporter $(TESTS)

lint: .venv/.test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

client: .venv/.test
	$(BIN)/python -m tests.client.unasync

bench: .venv/.server
	@exec $(BIN)/python -m benchmarks $(BENCH)

# The host's network, so that a build resolves names as this machine does.
image:
	docker build --network host --tag $(IMAGE) .

clean:
	rm -rf .venv .venv-torch .bench dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .cache tests/output
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp is written last, so that an installation cut short is done again; each waits for the one before it, so that
# two pips never work in one environment (make -j).

.venv/.made:
	@test -n "$(PYTHON)" && $(PYTHON) $(NEW_ENOUGH) 2>/dev/null || { \
		echo "Elman needs Python 3.11 or newer, and there is none$(if $(PYTHON), at $(PYTHON)); \
	name one: make $(MAKECMDGOALS) PYTHON=/path/to/python3" >&2; exit 1; }
	@echo "Making .venv with $$($(PYTHON) --version)"
	@rm -rf .venv
	@# Debian ships ensurepip apart (python3-venv); without it the pip that there is fills the environment.
	@if $(PYTHON) -c 'import ensurepip' 2>/dev/null; then $(PYTHON) -m venv .venv; \
	else $(PYTHON) -m venv --without-pip .venv && $(PYTHON) -m pip --quiet --python .venv install pip || { \
		echo "$(PYTHON) can make no virtual environment; on Debian: apt install python3-venv" >&2; exit 1; }; fi
	@touch $@

.venv/.server: pyproject.toml | .venv/.made
	@echo "Installing the server"
	@$(PIP) install --editable '.[server]'
	@touch $@

.venv/.test: pyproject.toml .venv/.server
	@echo "Installing what the quick tests need"
	@$(PIP) install --editable '.[test]'
	@touch $@

.venv/.test-all: pyproject.toml .venv/.test
	@echo "Installing what all tests need; torch makes it a few minutes the first time"
	@$(PIP) install torch==$(TORCH) --editable '.[test-all]'
	@touch $@
