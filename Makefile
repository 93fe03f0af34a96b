# Needs Python 3.11 or newer and make; no root, no GPU.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# Tests of one file run in the same process, which trains the networks that they share once; the order of the files is
# that of tests/conftest.py.
TWO := -n 2 --dist loadfile --no-loadscope-reorder

# Compiled modules are kept, whatever the environment says: every process of the tests starts sooner.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: setup check test gpu lint coverage docs demo

setup: $(VENV)/.installed

$(VENV)/.installed: requirements.txt setup.cfg setup.py pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "TraceGrad needs Python 3.11 or newer; call: make PYTHON=/path/to/python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --requirement requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	touch $@

# What a change breaks most, in a few minutes.
check: setup lint
	$(BIN)/python -m pytest $(TWO) -m "not slow and not gpu and not network" --durations=10

# Everything.
test: setup lint
	$(BIN)/python -m pytest $(TWO) --durations=25

# Parity with the CPU, precision, resume and NCCL on a GPU.
gpu: setup
	TRITON_INTERPRET=0 $(BIN)/python -m pytest -m gpu

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/mypy

# Lines that the tests run in their own process, as a table and in htmlcov/; TESTS=tests/nn looks at some of them.
coverage: setup
	$(BIN)/python -m pytest $(TWO) --cov --cov-report=term --cov-report=html $(TESTS)

demo: setup
	$(BIN)/python -m experiments.ablate experiment=demo seeds=0,1,2 jobs=2
	$(BIN)/python -m experiments.ablate experiment=demo_crystals seeds=0,1,2 jobs=2

# The site of docs/ in site/, with warnings as errors.
docs: setup
	$(BIN)/python -m pip install --quiet --requirement docs/requirements.txt --constraint requirements.txt
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
