# make demo and make test set up .venv by themselves; a second call reuses it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: setup demo test check clean

setup: $(STAMP)

# PYTHONWARNINGS: setuptools warns that a folder can hide an editable install; rgbt checks that by itself.
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "rgbt-fusion needs Python 3.11 or newer; found " + sys.version.split()[0] + ". Say: make PYTHON=python3.12 $(MAKECMDGOALS)")'
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

demo: $(STAMP)
	$(BIN)/rgbt demo --out runs/demo

# Engines are native libraries, each with a thread pool of its own, and broken models are what some of them crash on later:
# they have processes of their own, so that a fault is theirs and seen as theirs.
ENGINE_TESTS := $(addprefix tests/test_,engines.py engine_check.py doctor.py openvino.py ncnn.py litert.py)
BROKEN_MODELS := tests/test_broken_bundles.py

test: $(STAMP)
	$(BIN)/python -m pytest $(ENGINE_TESTS)
	$(BIN)/python -m pytest $(BROKEN_MODELS)
	$(BIN)/python -m pytest $(addprefix --ignore=,$(ENGINE_TESTS) $(BROKEN_MODELS))

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_architecture.py

clean:
	rm -rf $(VENV) build dist *.egg-info
