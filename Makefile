PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO := runs/demo
PEERS := .venv-peers
PEERS_READY := $(PEERS)/.ready
BENCH ?=

.PHONY: demo test check env bench clean

env: $(READY)

# The constraints pin torch to the version this project is tested with.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,sdp]'
	@touch $(READY)

# The peers' environment: this project first, under its constraints, then the peers without what they declare and do
# not use, which would replace torch.
$(PEERS_READY): pyproject.toml constraints.txt benchmarks/peers/requirements.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r benchmarks/peers/requirements.txt
	@touch $(PEERS_READY)

# Goes on where it was stopped; BENCH="--seconds 600" stops it after ten minutes.
bench: $(PEERS_READY)
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(PEERS)/bin/python benchmarks/peers/run.py --out benchmarks/results/peers $(BENCH)

demo: $(READY)
	$(BIN)/intriguing reproduce table-1 table-2 figure-7 --out $(DEMO)

test: $(READY)
	$(BIN)/python -m pytest -q -n auto --dist loadfile --no-loadscope-reorder

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) $(PEERS) build dist .pytest_cache .mypy_cache .ruff_cache
