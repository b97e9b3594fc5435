# Everything a newcomer needs: make demo, make test. Each sets up what it needs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
WORKERS ?= 2
# A CPU build is enough for everything here; a plain torch is taken where one is already installed.
STAMP := $(VENV)/.ready

.PHONY: setup demo play test slow lint bench clean

setup: $(STAMP)

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip
	$(BIN)/python -m pip install -q -e '.[arenas,dev]'
	touch $(STAMP)

demo: setup
	$(BIN)/terrella demo

play: setup
	$(BIN)/terrella play

# Tests of one file stay together: they share what was recorded and trained for them.
test: setup
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

# A process for each file: a process of several can start only one Ray with settings of its own.
slow: setup
	for file in $$(grep -l "mark.slow" tests/test_*.py); do \
		$(BIN)/python -m pytest -m slow $$file || failed=1; done; test -z "$$failed"

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

bench: setup
	mkdir -p runs
	$(BIN)/python benchmarks/dataset.py --json runs/dataset.json
	$(BIN)/python benchmarks/rollout.py --json runs/rollout.json
	$(BIN)/python benchmarks/gallery.py --json runs/gallery.json

clean:
	rm -rf $(VENV) runs
