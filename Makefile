# From nothing but python3: make test, make demo, make verify. Each makes .venv itself, and again only where pyproject.toml
# or constraints.txt changed. Every installation holds to constraints.txt, or pip would exchange torch for another build.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install format lint types imports unit test demo verify docs clean

help:
	@echo "make test     everything that is checked before a change is accepted (under 15 minutes on 2 cores)"
	@echo "make demo     a phantom dataset: plan, train, predict, evaluate (under 3 minutes on 2 cores)"
	@echo "make verify   the long checks, resumable"
	@echo "make docs     the documentation as a site, in build/site"
	@echo "make format   let ruff write the code's form"

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

install: $(STAMP)

format: $(STAMP)
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

lint: $(STAMP)
	$(BIN)/ruff format --check
	$(BIN)/ruff check

types: $(STAMP)
	$(BIN)/mypy

imports: $(STAMP)
	$(BIN)/lint-imports

unit: $(STAMP)
	$(BIN)/python -m pytest -m "not long" -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

# mypy is one process; pytest need not wait for it
test: lint imports
	$(MAKE) --jobs 2 types unit

demo: $(STAMP)
	$(BIN)/autolmk_demo --folder demo_output

verify: $(STAMP)
	$(BIN)/python benchmarks/verify.py --folder .verify

docs: $(STAMP)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	$(BIN)/python -m sphinx -W --keep-going -q -b html documentation build/site
	@echo "open build/site/index.html"

clean:
	rm -rf $(VENV) build dist *.egg-info demo_output .verify .mypy_cache .ruff_cache .pytest_cache .hypothesis
