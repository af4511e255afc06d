# make demo, make test: each does all the set-up a fresh machine needs (Python >= 3.11 and make).
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
EXTRAS := train,plot,record,view,audio,lsl,brainflow,xdf,bench,test,tensorrt-rtx

.PHONY: setup demo test lint types unit edge clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Afterimage needs Python 3.11 or newer; set PYTHON=")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[$(EXTRAS)]"
	touch $(STAMP)

demo: setup
	$(BIN)/afterimage demo

test: lint types unit edge

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

# Two processes: half of the tests wait for sensors and sockets, the other half train.
unit: setup
	$(BIN)/pytest -n 2 --dist loadfile

# The edge install, for real: a fresh environment with the base dependencies only, where torch cannot be imported.
edge: setup
	rm -rf build && $(PYTHON) -m venv build/edge
	build/edge/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt .
	cd build && edge/bin/python -c "import afterimage, runtime, engines"
	cd build && ! edge/bin/python -c "import torch" 2>/dev/null
	cd build && for module in benchmarks tests trainers.papers; do \
		! edge/bin/python -c "import $$module" 2>/dev/null || { echo "$$module is in the wheel"; exit 1; }; done
	cd build && edge/bin/afterimage paper rgbd-5pct 2>&1 | grep -q "clone of the repository"
	build/edge/bin/afterimage --help > build/edge/help.txt
	build/edge/bin/afterimage doctor

clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache
