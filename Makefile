# make demo | make test | make lint; Windows and people without make: the README has the plain commands.
PYTHON ?= python3
BIN = .venv/bin
ENV = .venv/installed
DEV = .venv/installed-dev
# two tests at a time, each of one thread: most wait for Python to start, or compute too little to be shared
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist worksteal

.PHONY: demo test test-slow test-spawn test-all lint

demo: $(ENV)
	$(BIN)/python pipeline.py demo

test: $(DEV)
	$(PYTEST) -m "not slow and not gpu"

test-slow: $(DEV)
	$(PYTEST) -m "slow and not gpu"

# processes are spawned, as on Windows
test-spawn: $(DEV)
	PYTHONPATH=tests/spawn $(PYTEST) -m "not slow and not gpu"

test-all: lint test test-slow test-spawn

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# uv installs the same wheels as pip in a sixth of the time; it stays inside .venv
$(ENV): requirements.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --python $(BIN)/python -r requirements.txt
	touch $@

# pysodmetrics, the reference of the saliency metrics, pins old packages that it does not need
$(DEV): $(ENV) requirements-dev.txt
	$(BIN)/uv pip install --python $(BIN)/python -r requirements-dev.txt
	$(BIN)/uv pip install --python $(BIN)/python --no-deps pysodmetrics
	touch $@
