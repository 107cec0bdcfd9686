# make demo   pretrain a model, score its checkpoints, run GRPO from each, open the page
# make demo-arithmetic   the same for answers of several tokens: two-digit addition
# make test   the test suite, on all cores
# make check  what CI runs: lint, types, import contracts, tests
# make coverage   the test suite with the line coverage of src

PYTHON ?= python3
BIN := .venv/bin
DEMO := runs/demo
ARITHMETIC := runs/arithmetic

# One thread a worker: two busy workers with two threads each are many times slower.
TESTS := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto

.PHONY: setup demo demo-arithmetic test coverage lint check bench clean

setup: .venv/.ready

.venv/.ready: constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "valuegrad needs Python 3.11 or newer; try make PYTHON=python3.11" >&2; exit 2; }
	@echo "setting up .venv (once; about a minute when the packages are cached)"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: setup
	$(BIN)/valuegrad pretrain $(DEMO)/pretrain
	$(BIN)/valuegrad study examples/demo.toml --out $(DEMO)/study

demo-arithmetic: setup
	$(BIN)/valuegrad pretrain $(ARITHMETIC)/pretrain --preset arithmetic
	$(BIN)/valuegrad study examples/arithmetic.toml --out $(ARITHMETIC)/study

test: setup
	$(TESTS)

coverage: setup
	$(TESTS) --cov --cov-report=term:skip-covered --cov-fail-under=92

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint test

bench: setup
	for claim in benchmarks/bench_*.py; do $(BIN)/python $$claim || exit 1; done

clean:
	rm -rf .venv runs
