# `make repro` and `make test` need only Python >= 3.11, git and make. Windows: README.md spells the same steps out.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed

# The stages are started as `python -m …`, so the environment's programs come first.
export PATH := $(CURDIR)/$(BIN):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help install repro test ui constraints clean

help:
	@echo "make repro        install, build everything from text to registered model, print the results"
	@echo "make test         install, check style, types and imports, run all tests"
	@echo "make ui           open the MLflow UI on what was built"
	@echo "make install      only install, into .venv"
	@echo "make constraints  resolve pyproject.toml anew and pin all that it installs"
	@echo "make clean        remove .venv and caches; data, models and .hallmark stay"

# Asks pip even where nothing changed: it mends what was installed by hand.
install:
	@rm -f $(INSTALLED)
	@$(MAKE) --no-print-directory $(INSTALLED)

# For the others, only when the requirements changed. --use-pep517: pip 23.0 (Debian 12's) else builds the one package that
# comes as source, seqeval, in the old way, which fetches its build tools without what they need themselves.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c "import sys; sys.version_info >= (3, 11) or sys.exit('this is Python %d.%d, and 3.11 or newer is needed; type: make $(MAKECMDGOALS) PYTHON=python3.11' % sys.version_info[:2])"
	@echo "installing into .venv (about 2 GB, some minutes)"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --use-pep517 --constraint constraints.txt --editable ".[dev]"
	@touch $@

repro: $(INSTALLED)
	$(BIN)/dvc --wait-for-lock repro
	-$(BIN)/hallmark sync # a tracker that is away fails no build
	$(BIN)/hallmark summary

test: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyrefly check
	$(BIN)/lint-imports
	$(BIN)/pytest -n logical --dist loadfile

ui: $(INSTALLED)
	$(BIN)/hallmark ui

# A fresh environment, resolved without the old pins; torch without its local version (+cpu), and without CUDA's wheels.
constraints:
	rm -rf .venv-constraints
	$(PYTHON) -m venv .venv-constraints
	.venv-constraints/bin/python -m pip install --quiet --disable-pip-version-check --use-pep517 ".[dev]"
	{ sed '/^[^#]/d' constraints.txt; .venv-constraints/bin/python -m pip freeze --exclude hallmark-lm \
	  | sed -E -e '/^(nvidia|triton)/d' -e 's/\+.*//' | LC_ALL=C sort -f; } > constraints.tmp
	mv constraints.tmp constraints.txt
	rm -rf .venv-constraints

clean:
	rm -rf .venv .venv-constraints .pytest_cache .ruff_cache .import_linter_cache *.egg-info build
	find pipeline flows benchmarks tests -name __pycache__ -type d -prune -exec rm -rf {} +
