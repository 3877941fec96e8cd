PYTHON ?= python3
BIN := .venv/bin
.DEFAULT_GOAL := help
.PHONY: help setup demo test lowest lint bench bench-gpu bench-training bench-peers queries fuzz scale drills recipes paper starter heldout

help:           ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

setup: .venv/.ready  ## make .venv with everything in it

.venv/.ready: pyproject.toml configs/constraints.txt
	@$(PYTHON) -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' || { echo "Needs Python 3.11 or newer with venv: apt-get install python3 python3-venv"; exit 2; }
	$(PYTHON) -m venv .venv && $(BIN)/python -m pip install -q --disable-pip-version-check -c configs/constraints.txt -e '.[dev]' && touch $@

demo: setup     ## tag the twelve loops of tests/data/loops and show the tags
	@$(BIN)/looptagger tag tests/data/loops -o build/demo
	@$(BIN)/looptagger show build/demo

test: setup     ## run all tests
	$(BIN)/python -m pytest -q -n 2 --dist loadfile

lowest:         ## run all tests with the oldest packages that pyproject.toml allows
	$(PYTHON) -m venv build/lowest && build/lowest/bin/python -m pip install -q --disable-pip-version-check uv==0.13.*
	build/lowest/bin/uv pip install -q --python build/lowest/bin/python --resolution lowest-direct -e '.[dev]'
	build/lowest/bin/python -m pytest -q -n 2 --dist loadfile

lint: setup     ## check style and types
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

bench: setup    ## measure the job, the forward and the decoder, as ratios
	$(BIN)/python -m jobs.bench

bench-gpu: setup ## build, check and time the forward on a GPU, several ways
	$(BIN)/python -m jobs.bench_gpu

bench-training: setup ## measure what training costs beyond its steps, and two workers against one (a quarter of an hour)
	$(BIN)/python -m jobs.bench_training

bench-peers: setup ## race against a DataLoader, a pool with Essentia and Daft on the same clips and weights (an hour)
	@# daft's bound on pyarrow is too old for us
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps daft==0.7.26 tqdm==4.70.1
	$(BIN)/python -m jobs.peers

queries: setup  ## ask README's questions of ten million synthetic rows, on DuckDB and Polars
	$(BIN)/python jobs/bench_queries.py

fuzz: setup     ## ten thousand broken audio files through the decoders
	$(BIN)/python jobs/fuzz.py

scale: setup    ## measure what grows from 10,000 to 1,000,000 clips, and memory where disk and model are of unlike speed
	$(BIN)/python -m jobs.bench_scale

drills: setup   ## kill jobs at random moments and in every way; look at what is in the output after each
	$(BIN)/python -m jobs.drills

recipes: setup  ## measure which parts of a training recipe help, on a prepared data set: make recipes DATA=fsld
	$(BIN)/python jobs/recipes.py $(DATA) -o build/recipes.jsonl --set model.channels=16 --set epochs=40 \
		--variant 'augment.mix=0.5 balance=sampling average_epochs=5' \
		--variant 'augment.mix=0.5 balance=sampling average_epochs=5 augment.wrap=true augment.speed_semitones=2'

paper: setup    ## the paper's eight systems, its tables and figures, on a prepared data set: make paper DATA=fsld
	$(BIN)/looptagger paper --data $(DATA) -o build/paper

STARTER := build/starter
starter: setup  ## rebuild the starter model: fetch open sounds, render clips, train, put it into the package (an hour and a half on two cores that have bfloat16, else two or more)
	@which apt-get dpkg-deb npm lmms espeak-ng fluidsynth g++ >/dev/null || { echo "Needs Debian 12, and: apt-get install npm lmms espeak-ng fluidsynth g++ python3-dev"; exit 2; }
	$(BIN)/python -m pip install -q --disable-pip-version-check -c configs/constraints.txt -e '.[starter]'
	$(BIN)/python -m jobs.starter $(STARTER)
	test -f $(STARTER)/data/dataset.json || $(BIN)/looptagger prepare $(STARTER)/audio -o $(STARTER)/data
	$(BIN)/looptagger train $(STARTER)/data -o $(STARTER)/run --config jobs/starter/train.yaml
	$(BIN)/looptagger train $(STARTER)/data -o $(STARTER)/more --config jobs/starter/more.yaml --set begin_with=$(STARTER)/run
	$(BIN)/python -m jobs.starter.ship $(STARTER)/run $(STARTER)/more $(STARTER)/data

heldout: setup  ## judge the starter model on real audio it never heard, from five Debian packages
	@ls /usr/share/scratch /usr/lib/python3/dist-packages/pyo /usr/share/lmms /usr/share/puredata/doc /usr/share/SuperCollider >/dev/null || { echo "apt-get install scratch python3-pyo lmms-common puredata-doc supercollider-common"; exit 2; }
	$(BIN)/looptagger prepare / --labels tests/data/heldout.tsv -o build/heldout --overwrite --set min_s=0.5
	$(BIN)/looptagger evaluate starter --data build/heldout --part all
