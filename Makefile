PYTHON ?= python3
BIN := .venv/bin
.DEFAULT_GOAL := help
.PHONY: help setup demo test lint bench recipes

help:           ## show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

setup: .venv/.ready  ## make .venv with everything in it

.venv/.ready: pyproject.toml configs/constraints.txt
	@$(PYTHON) -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' || { echo "Needs Python 3.11 or newer with venv: apt-get install python3 python3-venv"; exit 2; }
	$(PYTHON) -m venv .venv && $(BIN)/python -m pip install -q --disable-pip-version-check -c configs/constraints.txt -e '.[dev]' && touch $@

demo: setup     ## tag the twelve loops of tests/data/loops and show the tags
	@$(BIN)/looptagger tag tests/data/loops -o build/demo
	@$(BIN)/looptagger show build/demo

test: setup     ## run all tests
	$(BIN)/python -m pytest -q

lint: setup     ## check style and types
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

bench: setup    ## measure the job, the forward, the decoder and the driver's memory, as ratios
	$(BIN)/python jobs/bench.py

recipes: setup  ## measure which parts of a training recipe help, on a prepared data set: make recipes DATA=fsld
	$(BIN)/python jobs/recipes.py $(DATA) -o build/recipes.jsonl
