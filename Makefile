# The commands of the README. Everything is installed into .venv; a stamp file makes a second call quick.
PYTHON ?= python3
PROCESSES ?= 2
BIN := .venv/bin
STAMP := .venv/installed
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt

.PHONY: install demo test rounds lint format clean

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

test: install
	$(BIN)/python -m pytest --numprocesses $(PROCESSES) --dist worksteal

# Many more altered files and kills than the tests have: about half an hour.
rounds: install
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
