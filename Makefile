# Two commands set everything up, in .venv and nowhere else: `make serve` and `make test`.
#
#   make serve [PORT=8000]   serve the shipped models on 127.0.0.1
#   make train               add torch and what `elman export` needs
#   make test [TESTS=...]    run the quick tests, or some of them: they need no torch, no browser and no Docker
#   make test-all [TESTS=...]  run every test, or some; installs torch
#   make test-torch TORCH=2.8.0  the exporter's tests with one release of torch, in .venv-torch
#   make test-exporters [FRAMEWORKS="keras sb3"]  the files of other frameworks' exporters, each in an environment of its own
#   make test-clients        clients of Triton and KServe against a running server, in an environment of their own
#   make test-ray            Ray Serve and Ray Data, in an environment of their own
#   make lint                ruff, its formatter and mypy
#   make client              generate the blocking client from the asynchronous one
#   make bench [BENCH=--quick]  measure against the ceilings and other servers
#   make image [PYTHON_IMAGE=python:3.12-slim@sha256:...]  build the container image, and list what is in it in dist/
#   make lock                write the exact versions of the day: constraints.txt, requirements-image.txt
#   make test-bounds [TESTS=...]  run some tests with the lowest versions that pyproject.toml allows, and the newest
#   make clean               remove .venv and what the tools leave behind

HOST ?= 127.0.0.1
PORT ?= 8000
MODELS ?= models/store
IMAGE ?= elman
PYTHON_IMAGE ?= python:3.12-slim
TESTS ?=
WORKERS ?= auto
# One release of torch, in the range of pyproject.toml: which others there are differs by machine.
TORCH ?= 2.13.0
FRAMEWORKS ?= keras sb3 darts rsl skorch mlagents
BENCH ?=

# The first Python on the path that is new enough, unless PYTHON= names one.
NEW_ENOUGH := -c 'import sys; sys.exit(sys.version_info < (3, 11))'
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11 python3.14 python; do \
	$$python $(NEW_ENOUGH) 2>/dev/null && echo $$python && break; done)

BIN := .venv/bin
# A file's tests stay in one process, so that its servers are started once. The longest files come first.
PYTEST = $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
INSTALL := $(PIP) install --constraint constraints.txt
UV := $(BIN)/uv
LOCK := $(UV) pip compile --quiet --universal --python-version 3.11 --fork-strategy fewest --no-annotate \
	--custom-compile-command "make lock" pyproject.toml

# What shows that versions go together: decoding, the engine, the protocol, answers over HTTP.
BOUNDS := tests/test_imports.py tests/http tests/codec tests/engine tests/sessions tests/api/test_predict.py

# Some containers set it. Each of a hundred servers would then compile the package anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := serve
.PHONY: serve train test test-all test-clients test-exporters test-ray test-torch test-bounds lint client bench image lock clean

# The recipes hand over to the program (exec), so that Ctrl-C and SIGTERM reach it.
serve: .venv/.server
	@exec $(BIN)/elman serve $(MODELS) --host $(HOST) --port $(PORT)

train: .venv/.train

# Each process tests by itself. More threads of torch's would be in the way of the others, and wait for one another.
test test-all test-torch test-exporters: export OMP_NUM_THREADS = 1

test: .venv/.test
	@exec $(PYTEST) -m quick $(TESTS)

# These tests wait a good deal: for servers, containers and a browser. So two processes more than there are cores.
test-all: WORKERS = $(shell $(PYTHON) -c 'import os; print((os.cpu_count() or 1) + 2)')
test-all: .venv/.test-all
	@exec $(PYTEST) $(TESTS)

# An environment of its own, so that .venv keeps its torch. To be run with both ends of the range in pyproject.toml.
test-torch: .venv/.made
	@.venv/bin/python -m venv --clear .venv-torch
	@.venv-torch/bin/python -m pip --disable-pip-version-check --quiet install \
		--constraint constraints.txt torch==$(TORCH) --editable '.[test,train]'
	@exec .venv-torch/bin/python -m pytest tests/exporter $(TESTS)

test-exporters: .venv/.test $(FRAMEWORKS:%=.exporters/%/.made)
	@ELMAN_EXPORTERS="$(FRAMEWORKS)" exec $(BIN)/python -m pytest -m exporters tests/exporters $(TESTS)

test-clients: .venv/.test .clients/.made
	@exec $(BIN)/python -m pytest -m clients tests/clients $(TESTS)

# Its workers inherit the environment, so that they find the program of this clone.
test-ray: .ray/.made
	@exec .ray/bin/python -m pytest -m ray tests/ray $(TESTS)

# Each in an environment of its own, without the lock.
test-bounds: .venv/.uv
	@for resolution in lowest-direct highest; do \
		echo "Testing with $$resolution" && $(UV) venv --quiet --clear --python $(BIN)/python .bounds/$$resolution && \
		$(UV) pip install --quiet --python .bounds/$$resolution --resolution $$resolution --editable '.[test]' && \
		.bounds/$$resolution/bin/python -m pytest -m quick $(or $(TESTS),$(BOUNDS)) || exit 1; \
	done

lint: .venv/.test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

client: .venv/.test
	$(BIN)/python -m tests.client.unasync

bench: .venv/.test
	@exec $(BIN)/python -m benchmarks $(BENCH)

# The host's network, so that a build resolves names as this machine does.
image:
	docker build --network host --tag $(IMAGE) --build-arg PYTHON_IMAGE=$(PYTHON_IMAGE) \
		--label org.opencontainers.image.version=$$(sed -n 's/^__version__ = "\(.*\)"/\1/p' service/elman/__init__.py) .
	@mkdir -p dist
	docker run --rm --network none --entrypoint cat $(IMAGE) /opt/elman/sbom.cdx.json >dist/sbom.cdx.json

# constraints.txt has every package but torch, whose builds differ by machine, and what only torch needs.
# requirements-image.txt has those of the server again, with hashes: an editable installation takes none, not even by
# way of a constraint, so that the two cannot be one file.
lock: .venv/.uv
	echo 'torch; python_version < "3"' | $(LOCK) --all-extras --group tools --upgrade --override - -o constraints.txt
	$(LOCK) --extra server --extra grpc --extra redis --constraint constraints.txt --generate-hashes --upgrade -o requirements-image.txt

clean:
	rm -rf .venv .venv-torch .bench .bounds .clients .exporters dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .cache tests/output
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp is written last, so that an installation cut short is done again. An installation that includes another writes
# its stamp too. Two never work in one environment at once, not even with `make -j`.
.NOTPARALLEL:

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

.venv/.server: pyproject.toml constraints.txt | .venv/.made
	@echo "Installing the server"
	@$(INSTALL) --editable '.[server]'
	@touch $@

# Only what the server lacks: the package itself is not installed again. Python compiles what it imports; to compile all
# of torch would take nearly half of the time.
.venv/.train: pyproject.toml constraints.txt .venv/.server
	@echo "Installing torch and what elman export needs"
	@$(BIN)/python -c 'import tomllib; extras = tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]; \
		print(*[one for one in extras["train"] if not one.startswith("elman")], sep="\n")' >.venv/train.txt
	@$(INSTALL) --no-compile --requirement .venv/train.txt
	@touch $@

.venv/.test: pyproject.toml constraints.txt | .venv/.made
	@echo "Installing what the quick tests need"
	@$(INSTALL) --editable '.[test]'
	@touch .venv/.server $@

.venv/.test-all: pyproject.toml constraints.txt | .venv/.made
	@echo "Installing what all tests need; torch makes it a few minutes the first time"
	@$(INSTALL) torch==$(TORCH) --editable '.[test-all]'
	@touch .venv/.server .venv/.train .venv/.test $@

# What mlagents.bare.txt names is installed as it is: see there.
.exporters/%/.made: tests/exporters/requirements/%.txt | .venv/.made
	@echo "Installing $*, whose exporter is tested"
	@.venv/bin/python -m venv --clear $(@D)
	@echo torch==$(TORCH) >$(@D)/constraints.txt
	@$(@D)/bin/python -m pip --disable-pip-version-check --quiet install --constraint $(@D)/constraints.txt --requirement $<
	@test ! -f $(<:.txt=.bare.txt) || $(@D)/bin/python -m pip --disable-pip-version-check --quiet install \
		--no-deps --ignore-requires-python --requirement $(<:.txt=.bare.txt)
	@touch $@

.clients/.made: tests/clients/requirements.txt | .venv/.uv
	@echo "Installing clients of other projects"
	@$(UV) venv --quiet --clear --python $(BIN)/python .clients
	@$(UV) pip install --quiet --python .clients --requirement $<
	@touch $@

.ray/.made: pyproject.toml constraints.txt | .venv/.uv
	@echo "Installing Ray"
	@$(UV) venv --quiet --clear --python $(BIN)/python .ray
	@$(UV) pip install --quiet --python .ray --constraint constraints.txt --editable '.[test,ray]'
	@touch $@

.venv/.uv: | .venv/.made
	@$(INSTALL) uv
	@touch $@
