# Needs Python 3.11 or newer and make; everything else is installed into .venv.
PYTHON ?= $(firstword $(foreach name,python3.13 python3.12 python3.11 python3.14 python3,$(if $(shell $(name) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo yes),$(name))))
BIN := .venv/bin
INSTALLED := .venv/installed
export DO_NOT_TRACK = 1
export PREFECT_SERVER_ANALYTICS_ENABLED = false
# What a process compiled serves the next: the tests start hundreds.
test test-slice test-long test-random reliability: export PYTHONDONTWRITEBYTECODE =

.PHONY: install demo up test test-slice test-long test-random coverage reliability check clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml deployments/constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: install it, or say make PYTHON=/path/to/python3"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python deployments/install.py
	@touch $@

demo: install
	$(BIN)/python -m deployments.demo

up: install
	$(BIN)/python -m deployments.up

test: install
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder -m 'not long'

# The long tests that are due today: after a week each was run. What 10 minutes are too short for is skipped, and named.
test-slice: install
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m long --budget 600 \
	  --slice $$(($$(date +%s) / 86400)):$$(git rev-parse --short HEAD 2>/dev/null || echo none)

test-long: install
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m long

# As many schemas as N that nobody has seen; SEED=… draws those of a red run again.
N ?= 300
test-random: install
	RANDOM_SCHEMAS=$(N) $(BIN)/python -m pytest -m long $(if $(SEED),--hypothesis-seed=$(SEED)) tests/integration/test_random_schemas.py

# Branches that no test takes: of the quick tests, with LONG=1 of the long ones, with TESTS=… of these files alone.
TESTS ?= tests
coverage: install
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m $(if $(LONG),long,'not long') \
	  --cov --cov-report=term --cov-report=html:.local/coverage $(TESTS)

# Writes the table of docs/reliability.md anew; two at a time.
reliability: install
	WRITE_RELIABILITY=1 EVERY_VARIANT=1 $(BIN)/python -m pytest -n 2 --dist load tests/integration/test_damages.py

check: install
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m deployments.schema

clean:
	rm -rf .venv .local .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis .coverage*
