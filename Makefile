# Everything a fresh machine needs is a bare python3 (>= 3.11) with venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
export DO_NOT_TRACK := 1

.PHONY: setup help quickstart test fast-tests check lint types docs pages notebooks e2e e2e-prefect e2e-pages browser slow gpu-check prefect clean

setup: $(READY)        ## a virtual environment with everything (the default)

help:                  ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*##/ {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# torch first: sam2 builds against the installed one (its own build environment would fetch a second, CUDA, torch).
# pip compiles on one core, which takes a third of the set-up; compileall does it on all (-qq: some packages hold templates).
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"SWARD needs Python 3.11 or newer, found {v[0]}.{v[1]}; set PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --no-compile -c constraints.txt torch numpy setuptools wheel
	SAM2_BUILD_CUDA=0 $(BIN)/python -m pip install -q --no-compile -c constraints.txt --no-build-isolation -e '.[teacher,flows,dask,export,cloud,wandb,mlflow,dev,docs]'
	$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true
	touch $@

quickstart: $(READY)   ## both stages on the embedded default, a table, and a report
	$(BIN)/sward quickstart

test: lint             ## the fast tests, on up to four cores, and the types beside them
	@$(MAKE) --no-print-directory -j2 types fast-tests

# One thread a process: torch's own threads would only wait for each other. Files start in their order: by number of tests,
# the longest ones would come last, alone.
fast-tests: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

check: lint types      ## read-only: format, lint, import contract, types

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(READY)
	$(BIN)/mypy

docs: $(READY)         ## the documentation site in build/docs; warnings are errors
	$(BIN)/sphinx-build -q -W --keep-going -E docs build/docs

pages: $(READY)        ## the generated pages, tables and pictures of README and docs/, written again
	$(BIN)/python -m pipeline.maintenance.reference_pages
	$(BIN)/python -m pipeline.maintenance.capacity_page
	$(BIN)/python -m pipeline.maintenance.readme
	$(BIN)/python -m pipeline.maintenance.figures

notebooks: $(READY)    ## the documentation's notebooks, run again and written with their outputs
	$(BIN)/python -m pipeline.maintenance.notebooks

# Two halves that `make -j` runs beside each other.
e2e: e2e-prefect e2e-pages  ## README's commands: quickstart, its report in a browser, Prefect's on a real server; the notebooks, run

e2e-prefect: $(READY)
	$(BIN)/python -m pytest -m slow tests/flows/test_end_to_end.py

e2e-pages: quickstart
	$(BIN)/python -m pytest -m slow tests/maintenance/test_notebooks.py tests/report/test_browser.py

browser: $(READY)      ## Prefect's pages, reports and exported students in a browser (needs npm once)
	$(BIN)/python -m pytest -m "slow or not slow" tests/flows/test_pages.py tests/export/test_web.py \
		tests/export/test_shortlist_in_browser.py tests/report/test_browser.py

# Files that e2e and browser run.
ELSEWHERE := tests/flows/test_end_to_end.py tests/flows/test_pages.py tests/maintenance/test_notebooks.py tests/report/test_browser.py \
	tests/export/test_web.py tests/export/test_shortlist_in_browser.py

slow: $(READY)         ## all other slow tests: every method and student, processes and servers killed, S3, DDP, Dask, fuzz; hours
	$(BIN)/python -m pytest -m slow $(ELSEWHERE:%=--ignore=%) tests

gpu-check: $(READY)    ## what only a GPU can show, on one: ten minutes, build/gpu-check/gpu-check.json and .md
	PYTHONPATH=tests $(BIN)/python -m gpu_check --device cuda --out build/gpu-check

prefect: $(READY)      ## server, pools, deployments and workers on loopback (Ctrl-C stops the workers)
	$(BIN)/python -m flows.local_server

clean:                 ## remove the environment, runs and caches
	rm -rf $(VENV) runs data/*/caches
