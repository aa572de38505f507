# Everything goes through one virtual environment; `make help` lists the targets.
PYTHON ?= python3
VENV ?= .venv
# Where to get PyTorch without its gigabytes of CUDA packages. Used on Linux without an NVIDIA GPU, and only if it
# answers; set it empty (make TORCH_INDEX= …) to take torch from pip's own index.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
# how many test files run side by side
WORKERS ?= 2
# how many notebooks `make workshop` runs side by side; by default 2, if there are two cores and 7 GB of free memory
JOBS ?=

# how long the workshop of `make timetable` lasts, breaks included, and when it begins
MINUTES ?= 180
BEGIN ?= 09:00

PY := $(VENV)/bin/python

.DEFAULT_GOAL := help
.PHONY: help setup workshop test browser lab doctor bundle slides timetable format outputs evaluate bench clean

help: ## list the targets
	@awk -F':.*## ' '/^[a-z]+:.*##/ { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## create the virtual environment and install the tested packages (the other targets do it when needed)
	@$(PYTHON) -m tools.install $(VENV) $(TORCH_INDEX)

workshop: setup ## run every notebook; executed copies, HTML and a table of seconds and memory go to build/
	@$(PY) -m tools.notebooks run $(if $(JOBS),--jobs $(JOBS))

test: setup ## unit tests, and every notebook cell by cell
	@$(PY) -m pytest -n $(WORKERS)

browser: setup ## what the tests in a browser need: Playwright, and Chromium where apt-get may install it
	@$(PY) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --requirement tests/requirements.txt
	@which chromium chromium-browser google-chrome | grep -q . || { test "$$(id -u)" = 0 && apt-get -qq update && \
	  DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes chromium >/dev/null; } || \
	  echo "! No Chromium here: install it, or the tests in a browser are skipped."

lab: setup ## open JupyterLab at the first notebook
	@$(PY) -m jupyter lab --ServerApp.ip=127.0.0.1 --ServerApp.root_dir=. notebooks/00_start_here.ipynb

doctor: setup ## is this machine ready for the workshop?
	@$(PY) -m utils.doctor

bundle: setup ## one archive that installs without a network: the repository and every package, for this system
	@$(PY) -m tools.bundle --torch-index "$(TORCH_INDEX)"

slides: setup ## decks for presenting, in build/slides; they need no network
	@$(PY) -m tools.instructor slides

timetable: setup ## who presents what when (MINUTES=60, 180, 360)
	@$(PY) -m tools.instructor timetable --minutes $(MINUTES) --begin $(BEGIN)

format: setup ## format the code, bring the notebooks into their committed form
	@$(PY) -m ruff format --quiet . && $(PY) -m ruff check --quiet --fix . && $(PY) -m tools.notebooks format

outputs: setup ## run every notebook and write its outputs into the committed file, its cost into index.toml
	@PYTHONHASHSEED=0 $(PY) -m tools.notebooks run --in-place

evaluate: setup ## measure the embedded checkpoints (DATA=folder adds the benchmarks that are not shipped)
	@$(PY) -m utils.recipes.evaluate $(if $(DATA),--data $(DATA))

bench: setup ## measure how fast we are, and against what; writes the table in the README (12 minutes on idle cores)
	@$(PY) -m tools.bench

clean: ## delete what can be made again, except the virtual environment
	rm -rf build .pytest_cache .ruff_cache
