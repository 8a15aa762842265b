# make setup | demo | test | bench | soak | chaos | trace | lint | lock: each does the set-up it needs by itself.
# A fresh machine has make and python3 (3.11 or newer, with venv); everything else comes from the lock files:
# requirements.lock is what Mayfly runs on, requirements-image.lock adds what every node provider of the scaler needs,
# requirements-dev.lock adds what tests and linters need;
# requirements-bench.lock is the peers that `make bench` measures beside it, in an environment of their own.

VENV   := .venv
PYTHON := $(VENV)/bin/python
UV     := $(VENV)/bin/uv
UV_VERSION := 0.13.9
SOURCES := proto chassis broker_config services runtimes sdk
READY  := $(VENV)/.ready
PEERS  := .venv-bench
LOCK   := $(UV) pip compile --quiet --universal --python $(PYTHON) --generate-hashes --no-header --no-annotate \
	--no-emit-index-url --no-emit-find-links

export UV_PYTHON_DOWNLOADS := never
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup demo test bench soak chaos trace lint format lock clean

setup: $(READY)

$(READY): pyproject.toml requirements-dev.lock Makefile
	test -x $(PYTHON) || python3 -m venv $(VENV)
	test -x $(UV) || $(PYTHON) -m pip install --quiet uv==$(UV_VERSION)
	$(UV) pip install --quiet --python $(PYTHON) --compile-bytecode --require-hashes -r requirements-dev.lock
	$(UV) pip install --quiet --python $(PYTHON) --no-deps --no-build-isolation --editable .
	$(PYTHON) -m compileall -q $(SOURCES)
	touch $(READY)

demo: setup
	$(PYTHON) examples/demo.py

test: setup
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" pytest -n 2 --dist loadgroup -rs

bench: setup $(PEERS)/.ready
	$(PYTHON) bench/run.py $(PARTS)

$(PEERS)/.ready: requirements-bench.lock | $(READY)
	test -x $(PEERS)/bin/python || python3 -m venv $(PEERS)
	$(UV) pip sync --quiet --python $(PEERS)/bin/python --compile-bytecode --require-hashes requirements-bench.lock
	touch $(PEERS)/.ready

soak: setup
	$(PYTHON) bench/soak.py

chaos: setup
	$(PYTHON) -m tests.chaos

trace: setup
	$(PYTHON) -m tests.chaos.trace

lint: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/lint-imports
	$(VENV)/bin/mypy

format: setup
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

lock:
	test -x $(PYTHON) || python3 -m venv $(VENV)
	test -x $(UV) || $(PYTHON) -m pip install --quiet uv==$(UV_VERSION)
	$(LOCK) pyproject.toml -o requirements.lock
	$(LOCK) --all-extras -c requirements.lock pyproject.toml -o requirements-image.lock
	$(LOCK) --group dev -c requirements.lock pyproject.toml -o requirements-dev.lock
	$(LOCK) --group pyproject.toml:bench -c requirements.lock -o requirements-bench.lock

clean:
	rm -rf $(VENV) $(PEERS) dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
