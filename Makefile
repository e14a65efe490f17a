# The commands of the README. Everything is installed into .venv; a stamp file makes a second call quick.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/installed
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt

.PHONY: install demo test slow lint format clean

install: $(STAMP)

# torch comes first and alone, so that the build of it that pip finds for this machine is kept.
$(STAMP): requirements.txt constraints.txt pyproject.toml setup.py $(wildcard mmnas/boxes/*.pyx)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	  || { echo "error: Python 3.10 or newer is required; choose one with make PYTHON=python3.11"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) torch==2.13.0
	$(PIP) --editable '.[dev]'
	touch $(STAMP)

demo: install
	$(BIN)/python -m mmnas demo vqa

# Most tests run in two processes; those that start groups of processes or measure time run alone afterwards.
test: install
	$(BIN)/python -m pytest --numprocesses 2 --dist loadgroup -m "not alone and not slow"
	$(BIN)/python -m pytest -m "alone and not slow"

# The full rounds of altered files and of kills: about half an hour.
slow: install
	$(BIN)/python -m pytest -m slow
	$(BIN)/python -m tests.hostile
	$(BIN)/python -m tests.faults

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv build *.egg-info mmnas/boxes/*.so mmnas/boxes/*.c
