# make demo and make test set up everything they need; `make help` lists the rest.
#
# VENV    the virtual environment to make and use
# PYTHON  the interpreter to make it with; Python 3.11 is preferred, because DGL has no wheel for later ones

VENV ?= .venv
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo $$p; break; }; done)
PYTEST_ARGS ?= -n auto --maxprocesses=4 --dist=loadfile
DEMO := demo
PAGES := test

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# MatGL 2 where DGL has a wheel (see pyproject.toml), since everything was measured with it.
EXTRAS = $(shell $(BIN)/python -c 'import sys; \
	dgl = sys.platform == "linux" and sys.version_info < (3, 12); \
	print(("dgl," if dgl else "matgl,") + "chgnet,analysis,training,screening,engines,report,docs,dev")')

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install gpaw ase-versions matgl-versions demo docs test-docs links browser pages notebooks ratios trust test lint format clean distclean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' Makefile

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or later is needed: make PYTHON=/path/to/python" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# Python keeps what it compiles, whatever the shell says: uv leaves that to those who import it first.
export PYTHONDONTWRITEBYTECODE =
PIP = $(BIN)/python -m pip install --quiet -c constraints.txt
UV = $(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt

# Quick when nothing changed, and nothing is asked for then, so that everything works offline once installed. torch comes
# first, pinned: left to itself pip takes the newest, with gigabytes of CUDA libraries where a CPU wheel would do. uv
# installs the others in half a minute instead of four; it does not read pip's settings, so pip steps in where it fails.
$(STAMP): pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) torch setuptools
	$(PIP) uv && $(UV) --no-build-isolation -e ".[$(EXTRAS)]" || $(PIP) --no-build-isolation -e ".[$(EXTRAS)]"
	@touch $@

install: $(STAMP) ## set up the virtual environment with the pinned versions

gpaw: $(STAMP) ## add GPAW, compiled here, for the tests and examples under DFT (needs a C++ compiler)
	GPAW_CONFIG=$(CURDIR)/examples/gpaw_siteconfig.py $(BIN)/python -m pip install --quiet -c constraints.txt -e ".[gpaw]"

demo: $(STAMP) ## relax real crystals, in ASE and on the command line
	@mkdir -p $(DEMO)
	$(BIN)/python examples/relax_crystal.py
	$(BIN)/deeprelax relax examples/unrelaxed.extxyz -o $(DEMO)/relaxed.extxyz || test $$? -eq 1  # one is uncertain
	@echo "The first relaxed crystal, as $(DEMO)/relaxed.extxyz holds it:"
	@sed -n 2p $(DEMO)/relaxed.extxyz

test: $(STAMP) ## run the tests (PYTEST_ARGS="-m slow" for the slow ones)
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest $(PYTEST_ARGS)

docs: $(STAMP) ## build the documentation, docs/_build/index.html
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going --builder html docs docs/_build

test-docs: $(STAMP) ## run the code of the documentation, notebooks too (PAGES="trust or dft" for some pages)
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 DEEPRELAX_SCREENSHOTS=screenshots $(BIN)/python -m pytest $(PYTEST_ARGS) --dist=loadgroup tests/docs tests/test_notebooks.py \
		-m "slow or not slow" -k "$(PAGES)"

links: $(STAMP) ## ask for every address outside that README.md or a page links to (needs a network)
	$(BIN)/python docs/links.py

browser: $(STAMP) ## open the report's page in Chromium, desktop and phone, and keep pictures in screenshots/
	OMP_NUM_THREADS=1 DEEPRELAX_SCREENSHOTS=screenshots $(BIN)/python -m pytest -m "slow or not slow" tests/report/test_browser.py

pages: $(STAMP) ## make the benchmarks' pages and pictures anew of what was measured, lists of files and of commands
	$(BIN)/python benchmarks/pages.py
	$(BIN)/python benchmarks/paper/page.py
	$(BIN)/python docs/rooms.py
	$(BIN)/python docs/commands.py

notebooks: $(STAMP) ## run the notebooks anew and keep what they show
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.notebooks

ratios: $(STAMP) ## time fixed work against a reference kernel, to compare commits (benchmarks/ratios.py --compare)
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python benchmarks/ratios.py --json ratios.json

trust: $(STAMP) ## open every door to every kind of bad input, and make the table of docs/trust.md (minutes)
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python benchmarks/doors.py
	$(BIN)/python benchmarks/pages.py

ase-versions: $(STAMP) ## run the tests of the optimizer under every version of ASE since 3.25 (minutes for each)
	$(BIN)/python -m pytest -m slow tests/test_ase_versions.py

matgl-versions: $(STAMP) ## run the tests about MatGL under MatGL 3 and 4, without DGL and beside it (minutes for each)
	$(BIN)/python -m pytest -m slow tests/test_matgl_versions.py

lint: $(STAMP) ## check style, spelling, types and imports
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/codespell
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: $(STAMP) ## mend the style where a tool can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean: ## remove what the tools and the demo left behind
	rm -rf $(DEMO) docs/_build docs/tutorials build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find deeprelax_ase tests examples benchmarks docs -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## also remove the virtual environment
	rm -rf $(VENV)
