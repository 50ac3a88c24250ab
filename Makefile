# Two commands: `make demo` and `make test`. Both set up first; nothing but Python 3.11+ is needed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ifeq ($(OS),Windows_NT)
BIN := $(VENV)/Scripts
endif
PYTEST = $(BIN)/python -m pytest -q

.PHONY: setup demo test test-data test-slow check format wheel clean

setup: $(VENV)/.done

$(VENV)/.done: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

demo: setup
	$(BIN)/ensue demo

# Files of tests share the cores; what is slow is timed or killed, and runs alone.
test: setup
	$(PYTEST) -m "not slow and not data" --numprocesses auto --maxprocesses 4 --dist loadfile

test-data: setup
	$(PYTEST) -m "data and not slow"

test-slow: setup
	$(PYTEST) -m slow

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

wheel: setup
	$(BIN)/python -m pip wheel -q --no-deps -w dist .

clean:
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache
