# VENV=path     the environment to use or create (default: .venv here)
# PYTHON=name   the interpreter to create it with (default: the first suitable one)
# On one line with the target: make test PYTEST_ARGS="-m 'not slow'"

VENV ?= $(CURDIR)/.venv
PY = "$(VENV)/bin/python"
export VENV

.PHONY: help env demo demo-submission test test-slurm lint format clean

help: ## show this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 17

env: ## create the environment, where it is missing or out of date
	@tools/environment.sh

demo: env ## train a small model on sample data and look at what it does
	@PYTHON=$(PY) tools/demo.sh

demo-submission: env ## make leaderboard files of the demo's models and test splits, and check them
	@PYTHON=$(PY) tools/demo-submission.sh

test: env ## run all tests; PYTEST_ARGS="-m 'not slow'" leaves out those that take minutes
	$(PY) -m pytest $(PYTEST_ARGS)

test-slurm: env ## run the tests of jobs on a SLURM of their own, installing it where that is allowed
	@tools/slurm.sh
	$(PY) -m pytest tests/slurm $(PYTEST_ARGS)

lint: env ## check style, types and which module imports which
	$(PY) -m ruff check --output-format concise .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	"$(VENV)/bin/lint-imports" --no-logo

format: env ## rewrite the sources in the project's style
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

clean: ## remove caches and build leftovers; the environment stays
	rm -rf build *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +
