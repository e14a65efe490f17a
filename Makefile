# The commands of the README. Everything is installed into .venv; a stamp file makes a second call quick.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/installed

.PHONY: install demo test lint clean

install: $(STAMP)

$(STAMP): requirements.txt pyproject.toml setup.py $(wildcard mmnas/boxes/*.pyx)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	  || { echo "error: Python 3.10 or newer is needed; name one by make PYTHON=python3.11"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet --requirement requirements.txt setuptools
	$(BIN)/python -m pip install --quiet --no-build-isolation --editable '.[dev]'
	touch $(STAMP)

demo: install
	$(BIN)/python -m mmnas demo vqa

test: install
	$(BIN)/python -m pytest

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf .venv build *.egg-info mmnas/boxes/*.so mmnas/boxes/*.c
