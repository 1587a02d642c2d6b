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

.PHONY: help install constraints test lint format book serve browser links cold dist chapters \
  evidence benchmarks pages mutants clean

help:
	@echo "make install      create $(VENV) with the exact versions of constraints.txt"
	@echo "make test         all tests; one chapter's: $(VENV)/bin/pytest -k large_margin"
	@echo "make lint         style and formatting; make format mends the formatting"
	@echo "make book         the web book, warnings are errors; make serve shows it"
	@echo "make browser      look at the built book with a Chromium: keyboard, phone, dark, axe, links"
	@echo "make links        ask every address outside the book whether it is still there"
	@echo "make cold         run the notebooks in an empty folder, as a reader on Colab does"
	@echo "make dist         the wheel and the source archive, into dist"
	@echo "make chapters     re-run and normalise the notebooks: NAMES='04_large_margin'"
	@echo "make evidence     run what the records lack: STEMS='large_margin' SCALE=desk"
	@echo "make benchmarks   measure what each loss costs: BENCH='--device cuda --compile'"
	@echo "make pages        write the generated pages: ledger, misprints, benchmarks"
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
	$(UV) pip compile -q pyproject.toml --extra dev --universal --python-version 3.10 \
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

# With the Python that is there and whatever it has: the notebooks' first cell brings the library.
cold:
	folder=$$(mktemp -d) && cp chapters/*.ipynb $$folder && cd $$folder && for name in *.ipynb; do \
	  $(PYTHON) -m jupyter nbconvert --to notebook --execute --inplace $$name || exit 1; done

dist: $(STAMP)
	rm -rf dist
	$(UV) build --build-constraints constraints.txt

chapters: $(STAMP)
	$(PY) book/tools/chapters.py $(NAMES)

evidence: $(STAMP)
	for stem in $(STEMS); do $(PY) -m marginlib.lab $$stem --scale $(SCALE) || exit 1; done

# Not among the tests: a time depends on the machine and on who else uses it.
benchmarks: $(STAMP)
	OMP_NUM_THREADS=1 $(PY) benchmarks/run.py $(BENCH)
	$(PY) book/tools/benchmarks.py

pages: $(STAMP)
	$(PY) book/tools/ledger.py
	$(PY) book/tools/benchmarks.py

# Not among the requirements: of cosmic-ray only the operators are used, and those need nothing.
mutants: $(STAMP)
	$(UV) pip install -q --no-deps --python $(PY) --target $(VENV)/mutants cosmic-ray==8.7.0
	PYTHONPATH=$(VENV)/mutants nice $(PY) book/tools/mutants.py $(MODULES)

clean:
	rm -rf _build build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
