# `make reproduce` and `make test` do everything on a machine with Python 3.11+ and make.

PYTHON  ?= python3
PROFILE ?= quick
SEEDS   ?= 0
CORES   ?=
ONLY    ?=
MINUTES ?=
LAB_ARGS ?=
EXECUTOR ?=

# A misspelt one would be ignored without a word.
VARIABLES := PYTHON PROFILE SEEDS CORES ONLY MINUTES LAB_ARGS EXECUTOR
GIVEN     := $(foreach name,$(.VARIABLES),$(if $(filter command,$(origin $(name))),$(name)))
UNKNOWN   := $(filter-out $(VARIABLES),$(GIVEN))
ifneq ($(UNKNOWN),)
  $(error $(UNKNOWN): there is no such variable; there are $(VARIABLES))
endif
ifneq ($(filter-out slurm,$(EXECUTOR)),)
  $(error EXECUTOR=$(EXECUTOR): slurm, or leave it out to run on this machine)
endif

VENV      := .venv
RUN       := $(VENV)/bin/python
INSTALLED := $(VENV)/installed

# Recipes read these from the environment, where no quotation mark can do harm.
export PROFILE SEEDS CORES ONLY MINUTES
OPTIONS := --profile "$$PROFILE" --seeds "$$SEEDS" --cores "$$CORES" --only "$$ONLY" --minutes "$$MINUTES"

# Python's debugger in a kernel warns about frozen modules; nobody debugs here.
export PYDEVD_DISABLE_FILE_VALIDATION := 1

.PHONY: help env check reproduce plan test test-all style lab notebooks course site lock audit fresh clean
.NOTPARALLEL:

help:  ## list these targets
	@echo "make TARGET [PROFILE=quick] [SEEDS=0,1,2] [CORES=2] [ONLY=\"22 23\"] [MINUTES=12] [PYTHON=python3] [LAB_ARGS=--allow-root]"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1#\2/p' $(MAKEFILE_LIST) | awk -F '#' '{ printf "%-12s %s\n", $$1, $$2 }'
	@echo "CORES is how many notebooks run at a time, one core each; ONLY, which, by their first letters."
	@echo "EXECUTOR=slurm hands \`make reproduce\` to a cluster: docs/cluster.md."
	@echo "MINUTES ends \`make reproduce\` by then, the most valuable notebooks first; the next call goes on."

env: $(INSTALLED)  ## create .venv, the environment

check:  ## check PROFILE, SEEDS, CORES, ONLY and MINUTES
	@! command -v $(PYTHON) >/dev/null || $(PYTHON) -c 'import runpy, sys; \
	  sys.version_info < (3, 11) or runpy.run_module("helpers.run.options", run_name="__main__")' $(OPTIONS)

reproduce: check $(INSTALLED)  ## run the notebooks of PROFILE, then see reports/PROFILE/index.html
ifeq ($(EXECUTOR),slurm)
	$(RUN) -m snakemake --workflow-profile profiles/slurm --config profile="$$PROFILE" "seeds=[$$SEEDS]" artifacts=true
else
	@$(RUN) -m helpers.run.reproduce $(OPTIONS)
endif

plan: check $(INSTALLED)  ## print what `make reproduce` runs, and how long it is expected to take
	@$(RUN) -m helpers.run.plan $(OPTIONS)

test: check $(INSTALLED) style  ## run the quick tests, then every notebook from nothing
	TQDM_DISABLE=1 $(RUN) -m pytest -n 2 -m "not slow"  # each test wants one core
	@$(RUN) tests/notebooks.py --cores "$$CORES" --only "$$ONLY"

test-all: check $(INSTALLED) style  ## run all tests, then every notebook with its solutions, also as if there were a GPU
	TQDM_DISABLE=1 $(RUN) -m pytest -n 2
	@$(RUN) tests/notebooks.py --cores "$$CORES" --only "$$ONLY" --all

style: $(INSTALLED)  ## check the form of the code
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .

lab: $(INSTALLED)  ## open the notebooks in JupyterLab
	$(RUN) -m jupyterlab --config=helpers/run/lab/jupyter_server_config.py $(LAB_ARGS)

notebooks: check $(INSTALLED)  ## run the notebooks (profile quick) and keep their outputs, needs and times in git
	@$(RUN) -m helpers.run.reproduce $(OPTIONS) --keep

course: check $(INSTALLED)  ## build the course: notebooks for students and instructors, slides, syllabus
	@$(RUN) -m course.build $(OPTIONS)

site: $(INSTALLED)  ## build the site: notebooks, docs and syllabus as pages, with a search (needs npm)
	$(RUN) -m pages.build

lock: $(INSTALLED)  ## choose the newest versions that pyproject.toml allows: requirements.lock
	$(VENV)/bin/uv pip compile --universal --upgrade --extra test --no-header --no-annotate --quiet \
	  --no-emit-index-url --no-emit-find-links --output-file requirements.lock pyproject.toml

audit: $(INSTALLED)  ## ask for known vulnerabilities of what requirements.lock installs (needs a network)
	@$(RUN) tests/audit.py

fresh: $(INSTALLED)  ## run the fast tests with the newest versions that pyproject.toml allows (needs a network)
	@$(RUN) tests/fresh.py

clean:  ## delete reports, quick results and caches; .venv and data/ stay
	rm -rf course/student course/instructor course/slides course/index.html course/node_modules
	rm -rf reports results/quick .snakemake .pytest_cache .ruff_cache *.egg-info
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

# When the requirements change, the environment follows: it holds nothing else.
$(INSTALLED): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or newer is needed, and $(PYTHON) is $$($(PYTHON) --version 2>/dev/null || echo missing). Name another: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "$(PYTHON) lacks the modules venv and ensurepip. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@! test -L $(VENV) || { \
	  echo "$(VENV) is a link, and clearing it would empty what it points to. Remove the link first: rm $(VENV)" >&2; exit 1; }
	@$(PYTHON) -m helpers.run.environment $(VENV)
	@touch $@
