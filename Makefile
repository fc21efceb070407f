# One target a task; `make` alone prints them. DATA and PROFILE are said on the command line.
DATA ?=
PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2
JOBS ?= 2
FERKIT = $(VENV)/bin/ferkit
export FERKIT_DATA := $(or $(DATA),$(FERKIT_DATA))
PROFILE ?= $(if $(FERKIT_DATA),cpu,quick)

help: ## print the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(VENV)/installed ## set up .venv with the tested versions (uv where it is there, else pip)

run: install ## execute the notebooks, build the report: make run [DATA=…/fer2013.csv] [PROFILE=quick|cpu] [JOBS=2]
	$(FERKIT) suite run --profile $(PROFILE) --jobs $(JOBS) $(if $(FERKIT_DATA),--data "$(FERKIT_DATA)"); \
	status=$$?; $(FERKIT) report && exit $$status

test: install lint ## lint, then the tests; with FERKIT_DATA also on the real FER2013
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(VENV)/bin/python -m pytest -n $(WORKERS) --dist loadgroup --no-loadscope-reorder

lint: install ## ruff: style and formatting
	$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check .

report: install ## the results and the executed notebooks as a static site in build/report
	$(FERKIT) report

bench: install ## speed beside the usual way; with DATA=…/fer2013.csv also of reading it, and which faces are found
	for name in peers judging growth stream copies; do $(VENV)/bin/python benchmarks/$$name.py || exit 1; done
	if [ -n "$(FERKIT_DATA)" ]; then \
	  for name in parse detecting; do $(VENV)/bin/python benchmarks/$$name.py "$(FERKIT_DATA)" || exit 1; done; fi

tables: install ## write the results table of README from the records
	$(FERKIT) leaderboard --write README.md

kaggle-build: install ## write the Kaggle kernel into build/kaggle
	$(FERKIT) kaggle build

kaggle: kaggle-build ## push and start it with the official client
	$(FERKIT) kaggle push

lab: install ## open the notebooks in JupyterLab
	$(VENV)/bin/jupyter lab notebooks

clean: ## remove what make run wrote, but not the runs
	rm -rf build

$(VENV)/installed: requirements.txt constraints.txt pyproject.toml
	if command -v uv >/dev/null; then uv venv -q --clear --python $(PYTHON) $(VENV); else $(PYTHON) -m venv $(VENV); fi
	if command -v uv >/dev/null; then uv pip install -q --python $(VENV) -c constraints.txt -e '.[dev]'; else $(VENV)/bin/pip install -q -c constraints.txt -e '.[dev]'; fi
	touch $@

.PHONY: help install run test lint report bench tables kaggle-build kaggle lab clean
