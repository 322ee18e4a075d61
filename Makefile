# make app   sets up a virtual environment, installs, starts the page on the shipped models
# make test  installs what the tests need and runs all of them
# make quick  the tests that take no long time: under two minutes
# make test-peers  installs other libraries of the field and compares with them
# make world  makes every model of hub/ anew, make results every figure as well: hours; training/results.mk has the steps
# make real  explains a real encoder by real photographs, all in runs/photo-world: docs/real-encoder.md
# make test-real  fetches these and runs the tests that need them
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# A file of tests stays in one process; tests/conftest.py says which file begins first.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

.PHONY: app test quick test-peers world results real test-real lint

app: $(VENV)/app.stamp
	$(BIN)/python app.py

test: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(PYTEST) $(PYTEST_ARGS)

quick: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(PYTEST) -m "not slow" $(PYTEST_ARGS)

test-peers: $(VENV)/peers.stamp
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/formats/test_libraries.py tests/trainers/sae/test_dictionary_learning.py

world results: $(VENV)/test.stamp
	$(MAKE) --file training/results.mk BIN=$(BIN) $@

results-% keep-%: $(VENV)/test.stamp
	$(MAKE) --file training/results.mk BIN=$(BIN) $@

real: $(VENV)/app.stamp
	$(BIN)/python -m training.photo_world.real $(REAL_ARGS)

test-real: $(VENV)/test.stamp
	$(BIN)/python -m training.photo_world.real --only-fetch
	$(BIN)/python -m pytest tests/photo_world $(PYTEST_ARGS)

lint: $(VENV)/test.stamp
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(BIN)/python:
	$(PYTHON) -m venv $(VENV) || { echo "make: no working venv module; on Debian: apt install python3-venv"; exit 1; }

$(VENV)/app.stamp: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --editable .
	touch $@

$(VENV)/test.stamp: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --editable ".[test]"
	touch $@ $(VENV)/app.stamp

$(VENV)/peers.stamp: $(VENV)/test.stamp
	$(BIN)/python -m pip install --editable ".[peers]"
	$(BIN)/python -c "import dictionary_learning, sae_lens, sparsify"
	touch $@
