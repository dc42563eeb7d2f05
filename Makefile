# `make demo` and `make test` need Linux, Python 3.11 or newer and make; they set up everything else in .venv.
PYTHON ?= python3
BIN := .venv/bin
JOBS := $(shell nproc)

.PHONY: demo test check docs realdata overfit clean

demo: .venv/installed
	$(BIN)/atlas demo --out build/demo

test: .venv/installed
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile

# lint, types, and which part may import which
check: .venv/installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

# the table in docs/datasets.md, between its two markers, from the manifests and label maps that atlas ships
docs: .venv/installed
	mkdir -p build
	env -u ATLAS_PATH $(BIN)/atlas datasets --format markdown > build/datasets.md
	sed -i -e '/^<!-- table/,/^<!-- end/{//!d}' -e '/^<!-- table/r build/datasets.md' docs/datasets.md

# the main job on real scans, where ../shared/realdata holds them
realdata: .venv/installed
	$(BIN)/python tests/realdata/make.py ../shared/realdata build

# one model that learns the labelled real scans by heart; over an hour
overfit: .venv/installed
	$(BIN)/python tests/realdata/overfit.py ../shared/realdata build

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "atlas needs Python 3.11 or newer; try make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv build
