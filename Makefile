# Every target sets up what it needs, in a fresh clone too. PYTHON=python3.13 chooses the interpreter of .venv.

PYTHON ?= python3
UV := $(shell command -v uv 2>/dev/null)
BIN := .venv/bin
INSTALLED := .venv/installed

# What the lock file covers, beside the dependencies themselves.
LOCKED := --extra lab --extra agents --extra local --extra notebooks --extra notify --extra plots --group dev

# The peers of `make bench`, each with a tests/bench/peers-NAME.in and its lock.
PEERS := apscheduler3 apscheduler4 dbos huey readers

# What speaks to pandas: its dtypes differ from 2 to 3.
FRAMES := $(addprefix tests/unit/test_,frames.py scan.py slots.py history_model.py)

.PHONY: demo test test-long test-pandas22 lab bench lint lock clean browser

demo: $(INSTALLED)
	$(BIN)/python notebooks/demo.py

test: lint browser
	$(BIN)/python -m tests

# The proofs at full size, hours of them: what CI takes a sample of (tests/scale.py).
test-long: $(INSTALLED)
	CAR_TEST_LONG=1 $(BIN)/python -m pytest --timeout 0 tests/unit tests/crash

# The frames under the oldest pandas that we support: in an environment of its own, which is not locked.
test-pandas22:
	$(PYTHON) -m venv --clear build/pandas22
	build/pandas22/bin/python -m pip install --quiet --disable-pip-version-check --editable . 'pandas==2.2.3' \
	    'pytest>=9' pytest-timeout pytest-xdist hypothesis trio psutil nbclient
	build/pandas22/bin/python -m pytest -n 2 $(FRAMES)

lab: $(INSTALLED)
	$(BIN)/jupyter lab $(if $(filter 0,$(shell id -u)),--allow-root) notebooks/00_quickstart.ipynb

# Ours beside the floor and the peers, in one run of an hour or two, into README.md; it decides nothing.
# BENCH="--quick" tries it in minutes, BENCH="--help" tells the rest.
bench: $(INSTALLED) $(PEERS:%=build/bench/%/installed)
	$(BIN)/python -m tests.bench $(BENCH)

lint: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

browser: $(INSTALLED)
	$(BIN)/python -m tests.browser.chromium

COMPILE = $(or $(UV),build/uv/bin/uv) pip compile --quiet $(UPGRADE) --universal --python-version 3.11 --generate-hashes \
    --no-annotate --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock"

# `make lock` changes what has to change, `make lock UPGRADE=--upgrade` takes the newest of everything.
# The files name no registry: they install from whichever one a machine is set up for.
lock: pyproject.toml $(PEERS:%=tests/bench/peers-%.in)
	$(if $(UV),,$(PYTHON) -m venv build/uv && build/uv/bin/python -m pip install --quiet uv)
	$(COMPILE) $(LOCKED) --output-file requirements.lock pyproject.toml
	$(foreach peer,$(PEERS),$(COMPILE) --output-file tests/bench/peers-$(peer).lock tests/bench/peers-$(peer).in &&) true

clean:
	rm -rf .venv build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache

# The stamp is written last: a set-up that was cut short starts again.
$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	    echo 'car_sched_nb needs Python 3.11 or newer, and `$(PYTHON)` is' \
	         "`$(PYTHON) --version 2>/dev/null || echo not there`. Name another one: make PYTHON=python3.13 $(MAKECMDGOALS)" >&2; \
	    exit 1; }
ifneq ($(UV),)
	$(UV) venv --quiet --clear --no-python-downloads --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')" .venv
	VIRTUAL_ENV=.venv $(UV) pip install --quiet --require-hashes --requirement requirements.lock
	VIRTUAL_ENV=.venv $(UV) pip install --quiet --no-deps --no-build-isolation --editable .
else
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
endif
	touch $@

# Each peer of the bench has an environment of its own: two of them cannot share one.
build/bench/%/installed: tests/bench/peers-%.lock
ifneq ($(UV),)
	$(UV) venv --quiet --clear --no-python-downloads --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')" $(@D)
	VIRTUAL_ENV=$(@D) $(UV) pip install --quiet --require-hashes --requirement $<
else
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement $<
endif
	touch $@
