# Everything a fresh clone needs: Python 3.11 or later with pip, and make. The environment is made once, and again when
# pyproject.toml changes.
#   make demo         draw what the bundled models generate; the last line says where the page lies
#   make test         the test suite; PYTEST="-k hub" picks tests
#   make lint         style, types, and the direction of imports
#   make docs         the site, in site/
#   make benchmarks   every script of benchmarks/, ours beside a peer; wants an idle machine

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --editable

.PHONY: demo test lint docs benchmarks
# Stamps that only a pattern rule mentions would be removed as intermediate files.
.SECONDARY:

demo: $(VENV)/.installed
	@$(BIN)/zoo gallery -o gallery

test: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 $(PYTEST)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache --no-logo

docs: $(VENV)/.installed-docs
	$(BIN)/mkdocs build --strict

benchmarks: $(VENV)/.installed-benchmarks
	@set -e; for script in benchmarks/[!_]*.py; do \
		name=$$(basename $$script .py); \
		echo "== $$name"; \
		$(BIN)/python -m benchmarks.$$name; \
	done

$(VENV)/.installed: pyproject.toml
	@echo "Installing into $(VENV): several gigabytes the first time, most of them torch"
	@$(PYTHON) -m venv $(VENV)
	@$(INSTALL) .
	@touch $@

$(VENV)/.installed-%: $(VENV)/.installed
	@$(INSTALL) ".[$*]"
	@touch $@
