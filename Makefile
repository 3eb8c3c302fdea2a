# Two commands do everything: `make serve` and `make test`. Both set up what they need, once.
# `make test` leaves the page untested where no Chromium is; `make test-browser` gets one.

MODEL ?=
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin

# The first Python here that is new enough; mlx-lm needs 3.11.
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c '$(NEW_ENOUGH)' >/dev/null 2>&1 && echo $$p && break; done)

# What is installed is what was tested: the locked versions, from files with the locked hashes.
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes

# One lock for every machine and Python that is served. It names no registry.
LOCK = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--annotation-style line --custom-compile-command "make lock" $(or $(ARGS),--upgrade)

.PHONY: serve test test-browser test-clients test-schemas screenshots bench soak lint types format \
	lock audit clean

serve: $(VENV)/.serve-ready
	@$(BIN)/python server.py $(if $(MODEL),--model $(MODEL)) $(ARGS)

# Two at a time: most tests wait for something.
test: lint types
	@$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# The page in a real Chromium, which is installed when there is none.
test-browser: $(VENV)/.test-ready
	@$(BIN)/python -m tests.web.chromium
	@REQUIRE_BROWSER=1 $(BIN)/python -m pytest tests/web

# The presets of `connect`, read by the real clients: 2 GB from the registries, once.
test-clients: $(VENV)/.test-ready
	@TEST_CLIENTS=1 $(BIN)/python -m pytest tests/commands/test_real_clients.py

# The pictures of the README, made anew.
screenshots: $(VENV)/.test-ready
	@$(BIN)/python -m tests.web.chromium
	@$(BIN)/python -m tests.web.screenshots
	@$(BIN)/python -m tests.commands.pictures

# The demo model answers five hundred schemas, of which the suite takes some: a few minutes.
test-schemas: $(VENV)/.test-ready
	@ALL_SCHEMAS=1 $(BIN)/python -m pytest -p no:xdist -s tests/inference/test_grammar.py \
		-k test_answers_of_the_demo_model

# Half an hour: many clients for ten minutes, fifty servers killed, thousands of odd requests.
soak: test-schemas
	@$(BIN)/python -m tests.soak --seconds 600
	@$(BIN)/python -m tests.kill --rounds 50
	@ODD_REQUESTS=9000 $(BIN)/python -m pytest tests/bad_input/test_schema.py

bench: $(VENV)/.serve-ready
	@$(BIN)/python benchmarks/serving.py $(if $(MODEL),--model $(MODEL)) $(ARGS)

lint: $(VENV)/.test-ready
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(VENV)/.test-ready
	@$(BIN)/mypy

format: $(VENV)/.test-ready
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

# The newest that the requirements allow; ARGS="--upgrade-package h11" takes a newer h11 and leaves
# the rest. The tests' lock comes first: only what they can run with is served.
lock: | $(BIN)/uv
	@$(LOCK) requirements-dev.txt -o requirements-dev.lock
	@$(LOCK) requirements.txt -c requirements-dev.lock -o requirements.lock

# Known holes in what the server installs. Where nobody can be asked, it says so and fails nobody.
audit: $(VENV)/.test-ready
	@$(BIN)/python -m tests.audit $(ARGS)

clean:
	rm -rf $(VENV) .clients .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "This server needs Python 3.11 or newer; none was found." >&2; exit 1; }
	@echo "Making $(VENV) with $(PYTHON)."
	@$(PYTHON) -m venv $(VENV)

# By a make of its own: a lock whose files cannot be had any more is no reason not to make another.
$(BIN)/uv:
	@$(MAKE) --no-print-directory $(VENV)/.test-ready

$(VENV)/.serve-ready: requirements.lock | $(BIN)/python
	@echo "Installing what the server needs: 400 MB, once, which may take some minutes."
	@$(INSTALL) -r requirements.lock
	@touch $@

$(VENV)/.test-ready: requirements.lock requirements-dev.lock | $(BIN)/python
	@echo "Installing what the tests need: 1 GB, once, which may take some minutes."
	@$(INSTALL) -r requirements-dev.lock
	@touch $@ $(VENV)/.serve-ready
