# Two commands need nothing but Python >= 3.10, make and a network:
#
#     make book     build the web book into _build/html
#     make test     proofs, unit tests, doctests and every notebook's stored outputs
#
# Both create .venv on the first call and reuse it afterwards.

PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2
PORT ?= 8000
PY := $(VENV)/bin/python
UV := $(VENV)/bin/uv
STAMP := $(VENV)/.installed
CODE := marginlib tests chapters benchmarks book/_ext book/tools conftest.py

# What `make evidence`, `make chapters` and `make mutants` work on: every one, or those you name.
STEMS ?= $(filter-out __init__,$(basename $(notdir $(wildcard marginlib/lab/studies/*.py))))
SCALE ?= pocket
NAMES ?=
BENCH ?=
MODULES ?=

.PHONY: help install constraints test lint format book serve browser links alone dist chapters \
  evidence benchmarks at_scale pages live assignment slides figures sheet teach mutants clean

help:
	@echo "make install      create $(VENV) with the exact versions of constraints.txt"
	@echo "make test         all tests; one chapter's: $(VENV)/bin/pytest -k large_margin"
	@echo "make lint         style and formatting; make format mends the formatting"
	@echo "make book         the web book, warnings are errors; make serve shows it"
	@echo "make browser      look at the built book with a Chromium: keyboard, phone, dark, axe, links"
	@echo "make links        ask every address outside the book whether it is still there"
	@echo "make dist         the wheel and the source archive, into dist"
	@echo "make chapters     re-run and normalise the notebooks: NAMES='04_large_margin'"
	@echo "make alone        run each notebook without the rest, in a fresh environment: NAMES=..."
	@echo "make evidence     run what the records lack: STEMS='large_margin' SCALE=desk"
	@echo "make benchmarks   measure what each loss costs: BENCH='--device cuda --compile'"
	@echo "make at_scale     measure how costs grow, up to a million classes"
	@echo "make pages        write what is generated: ledger, misprints, benchmarks, tables, still pictures"
	@echo "make live         collect Python for the browser (needs npm): then derivations run in the book"
	@echo "make teach        for a course: assignment, slides, figures, sheet; or one of these: NAMES=..."
	@echo "make mutants      break the library on purpose and count what the tests catch"
	@echo "make constraints  renew constraints.txt from pyproject.toml"
	@echo "make clean        remove what was built; keeps $(VENV)"

install: $(STAMP)

# uv and not pip installs the rest: it takes torch and torchvision as one matching pair from the
# index, whatever the machine's pip settings are.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	  || { echo "Python 3.10 or newer is needed; name it with: make PYTHON=python3.12"; exit 1; }
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install -q --disable-pip-version-check -c constraints.txt uv
	$(UV) pip install -q --compile-bytecode --python $(PY) \
	  -c constraints.txt --build-constraints constraints.txt -e '.[dev]'
	touch $@

constraints: $(STAMP)
	$(UV) pip compile -q pyproject.toml --extra dev --extra teach --universal --python-version 3.10 \
	  --no-annotate --no-header --constraints constraints.txt -o $(VENV)/constraints.new
	{ sed -n '/^#/p' constraints.txt; cat $(VENV)/constraints.new; } > $(VENV)/constraints.txt
	mv $(VENV)/constraints.txt constraints.txt

# loadscope keeps the cells of one notebook on one worker, in order.
test: $(STAMP)
	$(PY) -m pytest -q -n $(WORKERS) --dist loadscope --ignore tests/browser marginlib tests chapters

lint: $(STAMP)
	$(VENV)/bin/ruff check $(CODE)
	$(VENV)/bin/ruff format --check $(CODE)

format: $(STAMP)
	$(VENV)/bin/ruff check --fix $(CODE)
	$(VENV)/bin/ruff format $(CODE)

book: $(STAMP)
	rm -rf _build/html
	$(VENV)/bin/jupyter-book build . --all -W -n --keep-going

serve: book
	@echo "http://127.0.0.1:$(PORT)/book/index.html"
	$(PY) -m http.server --bind 127.0.0.1 --directory _build/html $(PORT)

# Of what `make book` built.  Without a browser the tests are skipped and say so; with
# BROWSER=required they fail.  CHROME names a browser that is not on the PATH.
browser: $(STAMP)
	$(PY) -m pytest -q -n $(WORKERS) --dist worksteal tests/browser

links: $(STAMP)
	$(VENV)/bin/jupyter-book build . --all --builder linkcheck

dist: $(STAMP)
	rm -rf dist
	$(UV) build --build-constraints constraints.txt

chapters: $(STAMP)
	$(PY) book/tools/chapters.py $(NAMES)

alone: $(STAMP)
	$(PY) book/tools/alone.py $(NAMES)

evidence: $(STAMP)
	for stem in $(STEMS); do $(PY) -m marginlib.lab $$stem --scale $(SCALE) || exit 1; done

# Not among the tests: a time depends on the machine and on who else uses it.
benchmarks: $(STAMP)
	OMP_NUM_THREADS=1 $(PY) benchmarks/run.py $(BENCH)
	OMP_NUM_THREADS=1 $(PY) benchmarks/throughput.py
	$(PY) book/tools/benchmarks.py

# The record of chapter 13, which prints from it.
at_scale: $(STAMP)
	OMP_NUM_THREADS=1 $(PY) benchmarks/at_scale.py

pages: $(STAMP)
	$(PY) book/tools/ledger.py
	$(PY) book/tools/benchmarks.py
	$(PY) book/tools/tables.py
	$(PY) book/tools/explore.py

# Before `make book`, and only for who wants it: the derivations then run in the reader's browser.
live: $(STAMP)
	$(PY) book/tools/live.py

# For a course, into _build: assignments for Otter, slides, figures as SVG, two pages of formulas.
# What only these need comes on the first call; it moves nothing that is installed.
TAUGHT := $(VENV)/.teach

$(TAUGHT): $(STAMP)
	$(UV) pip install -q --python $(PY) -c constraints.txt -e '.[teach]'
	touch $@

teach: assignment slides figures sheet

assignment: $(TAUGHT)
	$(PY) book/tools/assignment.py $(NAMES)

slides: $(TAUGHT)
	$(PY) book/tools/slides.py $(NAMES)

figures: $(STAMP)
	$(PY) book/tools/figures.py $(NAMES)

sheet: $(STAMP)
	$(PY) book/tools/sheet.py

# Not among the requirements: of cosmic-ray only the operators are used, and those need nothing.
mutants: $(STAMP)
	$(UV) pip install -q --no-deps --python $(PY) --target $(VENV)/mutants cosmic-ray==8.7.0
	PYTHONPATH=$(VENV)/mutants nice $(PY) book/tools/mutants.py $(MODULES)

clean:
	rm -rf _build build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
