# `make reproduce` and `make test` do everything on a machine with Python 3.11+ and make.

PYTHON  ?= python3
PROFILE ?= quick
SEEDS   ?= 0
CORES   ?= 1

VENV      := .venv
RUN       := $(VENV)/bin/python
INSTALLED := $(VENV)/installed
NOTEBOOKS := $(sort $(wildcard notebooks/*.ipynb))
NBVAL     := $(RUN) -m pytest --nbval-lax --nbval-current-env --nbval-cell-timeout=1800

# Python's debugger in a kernel warns about frozen modules; nobody debugs here.
export PYDEVD_DISABLE_FILE_VALIDATION := 1

.PHONY: help env reproduce test lab notebooks lock clean

help:  ## list these targets
	@echo "make TARGET [PROFILE=quick|standard|paper] [SEEDS=0,1,2] [CORES=1] [PYTHON=python3]"
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  \1#\2/p' $(MAKEFILE_LIST) | awk -F '#' '{ printf "%-12s %s\n", $$1, $$2 }'
	@echo "CORES=1 runs one step at a time on all the machine's cores, CORES=4 four at a time on one core each."

env: $(INSTALLED)  ## create .venv, the environment

reproduce: $(INSTALLED)  ## run the notebooks of PROFILE, then see reports/PROFILE/index.html
	@$(RUN) -m helpers.reproduce --profile $(PROFILE) --seeds $(SEEDS) --cores $(CORES)

test: $(INSTALLED)  ## run all tests: those of the helpers, then every notebook with its solutions
	ls tests/test_*.py | TQDM_DISABLE=1 xargs -n 4 -P 2 $(RUN) -m pytest  # each test wants one core
	$(RUN) tests/with_solutions.py reports/tested
# Two notebooks at a time, a thread each, take less time than one with two; those that measure time want to be alone.
# Sorted by the second digit, papers take turns: two notebooks of one paper would wait for each other's artifacts.
	ls reports/tested/*.ipynb | grep -v speed | sort -s -t/ -k3.2,3.2 | TQDM_DISABLE=1 OMP_NUM_THREADS=1 xargs -n 1 -P 2 $(NBVAL)
	TQDM_DISABLE=1 $(NBVAL) reports/tested/*speed.ipynb

lab: $(INSTALLED)  ## open the notebooks in JupyterLab
	$(RUN) -m jupyterlab notebooks

notebooks: $(INSTALLED)  ## re-execute the notebooks in place, as they are committed (profile quick)
	@for notebook in $(NOTEBOOKS); do $(RUN) -m helpers.run $$notebook || exit 1; done

lock: $(INSTALLED)  ## choose the newest versions that pyproject.toml allows: requirements.lock
	$(RUN) -m uv pip compile --universal --upgrade --extra test --no-header --no-annotate --quiet \
	  --no-emit-index-url --no-emit-find-links --output-file requirements.lock pyproject.toml

clean:  ## delete reports, quick results and caches; .venv and data/ stay
	rm -rf reports results/quick .snakemake .pytest_cache *.egg-info
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

# The environment is made anew when the requirements change, so that it holds nothing else.
# uv is fast; where it cannot be had or does not find its way to the package index, pip does the same.
$(INSTALLED): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or newer is needed, and $(PYTHON) is $$($(PYTHON) --version 2>/dev/null || echo missing). Name another: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "$(PYTHON) lacks the modules venv and ensurepip. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check uv || true
	$(RUN) -m uv pip install --python $(RUN) --requirement requirements.lock \
	  || $(RUN) -m pip install --requirement requirements.lock
	$(RUN) -m uv pip install --python $(RUN) --no-deps --editable . \
	  || $(RUN) -m pip install --no-deps --editable .
# A second opinion for the tests, which pass over it where it is missing.  Its plotting dependency does not build.
	$(RUN) -m uv pip install --python $(RUN) --no-deps adv-lib==0.2.8 \
	  || $(RUN) -m pip install --no-deps adv-lib==0.2.8 || true
	@touch $@
