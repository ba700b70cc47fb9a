# VENV=path     the environment to use or create (default: .venv here)
# PYTHON=name   the interpreter to create it with (default: the first suitable one)
# VENV2=path    the same for fairchem-core 2 (default: .venv-fairchem2 here)
# On one line with the target: make test PYTEST_ARGS="-m 'not slow'"

VENV ?= $(CURDIR)/.venv
VENV2 ?= $(CURDIR)/.venv-fairchem2
PY = "$(VENV)/bin/python"
# Tests of the network, and those of fairchem 2; what fairchem 1 brings is tested with that.
TESTS2 = tests/sphere tests/ops tests/nn tests/test_graph.py tests/test_config.py tests/test_unpickling.py tests/test_torch_files.py \
	tests/test_calculator.py tests/test_predict.py tests/test_ase_page.py tests/viz tests/fairchem2
# Files of tests share what is costly to make, so each goes to one process.
PARALLEL ?= -n auto --maxprocesses 8 --dist loadfile
HOSTILE_ARGS ?= --structures 10000 --files 1000 --write docs/reliability.md
export VENV

# What makes and checks locks and releases: an environment of its own, of packages whose hashes are locked.
TOOLS = .venv-tools
# fairchem-core 1.10 with the oldest versions that setup.cfg lets in.
OLDEST = .venv-oldest
INSTALL_OLDEST = $(OLDEST)/bin/python -m pip install --quiet --no-deps --no-build-isolation

.PHONY: help env env-fairchem2 demo demo-submission test test-slurm test-fairchem2 test-oldest test-hostile mutation lint format docs lock audit dist clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "%-17s%s\n", $$1, $$2 }' Makefile

env: ## create the environment, where it is missing or out of date
	@tools/environment.sh

env-fairchem2: ## the same for fairchem-core 2
	@VENV="$(VENV2)" tools/environment.sh --fairchem2

demo: env ## train a small model on sample data and look at what it does
	@PYTHON=$(PY) tools/demo.sh

demo-submission: env ## make leaderboard files of the demo's models and test splits, and check them
	@PYTHON=$(PY) tools/demo-submission.sh

test: env ## run all tests; PYTEST_ARGS="-m 'not slow'" leaves out those that take minutes
	$(PY) -m pytest $(PARALLEL) $(PYTEST_ARGS)

test-slurm: env ## run the tests of jobs on a SLURM of their own, installing it where that is allowed
	@tools/slurm.sh
	$(PY) -m pytest tests/slurm $(PYTEST_ARGS)

test-fairchem2: env-fairchem2 ## run the tests with fairchem-core 2; checkpoints of both lines if VENV is there too
	OCP_SCN_FAIRCHEM1="$(VENV)/bin/python" "$(VENV2)/bin/python" -m pytest $(PARALLEL) $(TESTS2) $(PYTEST_ARGS)

# pip keeps what it builds of torch-scatter without asking for which torch.
$(OLDEST)/ready: requirements/build.txt requirements/scatter.txt requirements/oldest/lock.txt
	@rm -rf $(OLDEST)
	@"$$(tools/environment.sh --interpreter)" -m venv $(OLDEST)
	@$(INSTALL_OLDEST) --require-hashes -r requirements/build.txt
	@$(INSTALL_OLDEST) --require-hashes -r requirements/oldest/lock.txt
	@CFLAGS="-O1 -g0" $(INSTALL_OLDEST) --require-hashes --no-cache-dir -r requirements/scatter.txt
	@touch $@

test-oldest: $(OLDEST)/ready ## run the tests that are not slow with the oldest versions that fit (3 GB to fetch)
	@$(INSTALL_OLDEST) -e .
	$(OLDEST)/bin/python -m pytest -m "not slow" $(PYTEST_ARGS)

test-hostile: env ## try 10,000 hostile structures and 1,000 files; HOSTILE_ARGS="--structures 100 --files 50"
	OMP_NUM_THREADS=1 $(PY) -m tests.hostile --fairchem2 "$(VENV2)/bin/python" $(HOSTILE_ARGS)

# Its tool is wanted here only, so it is no part of the environment before.
mutation: env ## change the code in small ways and see which no test notices; ARGS=--all for all of them
	$(PY) -m pip install --quiet --constraint requirements/lock.txt "mutmut >= 3.8, < 4"
	OMP_NUM_THREADS=1 $(PY) tools/mutation.py $(ARGS)

lint: env ## check style, types and which module imports which
	$(PY) -m ruff check --output-format concise .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	"$(VENV)/bin/lint-imports" --no-logo

format: env ## rewrite the sources in the project's style
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

$(TOOLS)/ready: requirements/tools.txt
	@rm -rf $(TOOLS)
	@"$$(tools/environment.sh --interpreter)" -m venv $(TOOLS)
	@$(TOOLS)/bin/python -m pip install --quiet --no-deps --require-hashes -r requirements/tools.txt
	@touch $@

lock: $(TOOLS)/ready ## resolve requirements/*.in anew; LOCK_ARGS=--upgrade takes the newest versions
	$(TOOLS)/bin/python tools/lock.py $(LOCK_ARGS)

audit: $(TOOLS)/ready ## ask PyPI for known vulnerabilities of the locked packages
	@tools/audit.sh $(TOOLS)/bin/pip-audit

dist: $(TOOLS)/ready ## build the source distribution and the wheel into dist/
	$(TOOLS)/bin/python -m build

docs: $(TOOLS)/ready ## build the site into build/site
	@NO_MKDOCS_2_WARNING=1 $(TOOLS)/bin/mkdocs build --strict
	@echo "wrote build/site/index.html"

clean: ## remove caches and build leftovers; the environment stays
	rm -rf build *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +
