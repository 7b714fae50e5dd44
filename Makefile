# `make demo` and `make test` set up all they need in .venv; nothing is installed elsewhere.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
SITE_VENV := .venv-site

.PHONY: demo test test-long test-browser test-pythons test-wheel lint types check ci docs soak fuzz live bench bench-page bench-plots pykka-suite lock clean

demo: $(READY)
	$(BIN)/python -m gemini_streams demo

test: $(READY)
	$(BIN)/python -m pytest

# What takes too long for each `make test`: all combinations of google-genai's environment, the plugin's suites, and the
# like.
test-long: $(READY)
	$(BIN)/python -m pytest -m long

# The same tests on every newer CPython of this machine, and against the built wheel in an empty environment.
test-pythons:
	.ci/pythons

test-wheel: $(READY)
	.ci/wheel

# What only a real browser shows; wants a Chromium (Debian: apt-get install chromium) or BROWSER_PATH=... .
BROWSER_PATH ?= $(shell command -v chromium || command -v chromium-browser || command -v google-chrome)
test-browser: $(READY)
	BROWSER_PATH="$(or $(BROWSER_PATH),$(error no Chromium is found: give BROWSER_PATH=...))" $(BIN)/python -m pytest -n 0 tests/browser

# All that has to pass before a change lands.
ci:
	.ci/run

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(READY)
	$(BIN)/mypy

check: lint types test

# The documentation site, in build/site: warnings are errors, and a test looks at what was built. Its tools have an
# environment of their own. To read it: `python3 -m http.server -d build/site --bind 127.0.0.1`.
docs: $(READY) $(SITE_VENV)/.ready
	NO_MKDOCS_2_WARNING=1 $(SITE_VENV)/bin/mkdocs build --config-file website/mkdocs.yml
	$(BIN)/python -m pytest -m site -n 0 tests/docs/test_site.py

# Pykka's own tests, with SupervisedActor as their runtime: its source distribution comes from the package index, once.
pykka-suite: $(READY)
	$(BIN)/python tests/supervisor/pykka_suite/run.py

# The long fault run: 1,000 streams, 5 minutes.
soak: $(READY)
	$(BIN)/python -m pytest -m soak --timeout=900 -n 0 tests

# Hostile servers for some minutes: `make fuzz MINUTES=30`, one finding again: `make fuzz SEED=7 CASE=123`.
MINUTES ?= 5
fuzz: $(READY)
	PYTHONPATH=tests $(BIN)/python -m fuzz --minutes $(MINUTES) $(if $(SEED),--seed $(SEED)) $(if $(CASE),--case $(CASE))

# Questions to Google's own service whose answers nobody has documented; no test is among them. Wants a key in
# GEMINI_API_KEY and costs a little. Some of them alone: `make live ASK="replay usage"`.
live: $(READY)
	@$(BIN)/python -m live $(ASK)

# Every promise of performance against its peers, half an hour on two quiet cores; the figures go to build/bench.json.
bench: $(READY)
	$(BIN)/python -m benchmarks --json build/bench.json

# The pictures of docs/performance.md; a quarter of an hour.
bench-plots: $(READY)
	$(BIN)/python -m benchmarks --plots docs/img

# All of docs/performance.md anew, for two quiet cores: measure, try as many streams as the machine carries, fill the
# tables in, draw the pictures. A promise that is not reached stops nothing here: the page says so.
bench-page: $(READY)
	-$(BIN)/python -m benchmarks --json build/bench.json
	$(BIN)/python -m benchmarks --limits --json build/limits.json
	$(BIN)/python -m benchmarks.page build/bench.json build/limits.json
	$(BIN)/python -m benchmarks --plots docs/img

$(READY): pyproject.toml requirements-dev.lock
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $(READY)

$(SITE_VENV)/.ready: website/requirements.lock
	$(PYTHON) -m venv $(SITE_VENV)
	$(SITE_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r website/requirements.lock
	touch $(SITE_VENV)/.ready

# New versions for the development set and the site's tools; needs `uv`.
lock:
	uv pip compile --universal --python-version 3.11 --no-header --no-annotate --group dev --all-extras pyproject.toml -o requirements-dev.lock
	uv pip compile --universal --python-version 3.11 --no-header --no-annotate --group docs -o website/requirements.lock

clean:
	rm -rf $(VENV) $(wildcard .venv-*) dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis
