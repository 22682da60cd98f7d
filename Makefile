# All that is needed is Python 3.11 or later: the rest is installed into this folder, Poetry into
# .poetry (tools/poetry) and Keyosk into .venv. Nothing outside is changed.

# Another Poetry 2 may be named: make test POETRY=poetry
POETRY ?= tools/poetry
BIN := .venv/bin
# Any builder of Sphinx: html, epub, man, text, linkcheck, ...
SPHINX_FORMAT ?= html
ARGS ?=
# Four workers: many of these tests wait for the end of a second, so two leave the cores idle.
SHORT := -m "not slow" -n 4
# As .venv/bin/keyosk does, whose first line, written by Poetry, breaks at a space in this folder's path.
KEYOSK := $(BIN)/python -c 'import sys; from keyosk.cli import main; sys.argv[0] = "keyosk"; sys.exit(main())'

# An active virtual environment would draw the installation to itself. Without its bytecode kept,
# each command compiles all that it imports, which doubles its cost.
unexport VIRTUAL_ENV CONDA_PREFIX CONDA_DEFAULT_ENV POETRY_ACTIVE PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help run test test-long coverage faults demo lint format docs screenshots build audit bench growth profile compose manifests lock clean

help: ## Show this list
	@echo 'Usage: make TARGET [ARGS="..."]'
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' Makefile

run: .venv/.runtime ## Set up and start Keyosk (ARGS go to "keyosk serve")
	@exec $(KEYOSK) serve $(ARGS)

test: .venv/.development ## Run the tests but the long ones (ARGS="-k token" go to pytest)
	@$(BIN)/pytest $(SHORT) $(ARGS)

test-long: .venv/.development ## Run the long tests: servers of their own, other programs, kills, floods
	@$(BIN)/pytest -m slow $(ARGS)

coverage: .venv/.development ## Run "make test" and hold the floors of branch coverage
	@$(BIN)/pytest $(SHORT) --cov --cov-report=term $(ARGS)
	@$(BIN)/coverage report --include "client/*" --fail-under 100

faults: .venv/.development ## Take the defences away one by one and see that a test finds it
	@$(BIN)/python tools/faults.py $(ARGS)

demo: .venv/.runtime ## Play the README's story by itself, on a free port, in a temporary folder
	@$(BIN)/python examples/demo.py $(ARGS)

lint: .venv/.development ## Check style, formatting, types, dangerous calls and spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive keyosk
	$(BIN)/mypy
	$(BIN)/mypy --python-version 3.10 client/keyosk_client
	$(BIN)/hadolint deploy/Dockerfile
	$(BIN)/codespell

format: .venv/.development ## Format the code and mend what can be mended by itself
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

docs: .venv/.development ## Build the documentation into build/docs (SPHINX_FORMAT=epub, man, ...)
	$(BIN)/sphinx-build -W --keep-going -b $(SPHINX_FORMAT) -a -d build/doctrees docs build/$(if $(filter html,$(SPHINX_FORMAT)),docs,$(SPHINX_FORMAT))

# Kept in docs/screenshots, as a machine that builds the documentation may have no Chromium.
screenshots: .venv/.development ## Take the pictures of the console anew (needs Chromium)
	@$(BIN)/python tools/screenshots.py

build: .venv/.development ## Build the wheels, the source packages, their SBOM and pins into dist
	$(POETRY) build --clean
	@VIRTUAL_ENV=$(CURDIR)/.venv $(POETRY) build --directory client --output $(CURDIR)/dist
	@! command -v npm >/dev/null || npm pack --silent --pack-destination dist ./client-node
	$(BIN)/python tools/supply.py sbom >dist/keyosk-$$($(POETRY) version --short).cdx.json
	$(BIN)/python tools/supply.py pins dist

# In two steps, as a pipe would hide that the first one failed; strict, as pip-audit otherwise takes a
# library that it was not told of for one without a fault.
audit: .venv/.development ## Ask PyPI for known faults of what Keyosk runs on (needs the network)
	@mkdir -p build
	$(BIN)/python tools/supply.py requirements >build/requirements.txt
	$(BIN)/pip-audit --strict --require-hashes --disable-pip --requirement build/requirements.txt $(ARGS)

bench: .venv/.development ## Measure what requests cost, beside a bare Flask route and a peer
	@$(BIN)/python tools/bench $(ARGS)

growth: .venv/.development ## Measure how costs grow with accounts, services, grants, revocations, audit rows, nodes
	@$(BIN)/python tools/growth $(ARGS)

bench-client: .venv/.development ## Measure what keyosk-client adds to a bare jwt.decode
	@$(BIN)/python tools/client_cost.py $(ARGS)

profile: .venv/.development ## Show where the time of a request goes, by layer
	@$(BIN)/python tools/breakdown.py $(ARGS)

compose: build ## Start deploy/compose.yaml (needs Docker; LOGIN_HOST=login.example.org)
	sh deploy/make-secrets.sh
	docker compose --file deploy/compose.yaml up --build --wait

manifests: .venv/.development ## Render the Helm chart into deploy/kubernetes/keyosk.yaml
	@$(BIN)/python tools/manifests.py

lock: ## Update poetry.lock (ARGS="--regenerate": every version anew)
	$(POETRY) lock $(ARGS)

clean: ## Remove all that was built or installed here; data/ stays
	rm -rf .venv .poetry build dist client-node/node_modules .tox .coverage .coverage.* htmlcov
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name .git -prune -o -name __pycache__ -type d -exec rm -rf {} +

# The marks make a second run start at once. "sync" also removes what is no longer asked for, so a
# dependency that was dropped cannot be imported by accident.
.venv/.runtime: pyproject.toml poetry.lock
	$(POETRY) sync --only main,examples --all-extras
	@touch $@

.venv/.development: pyproject.toml poetry.lock
	$(POETRY) sync --all-groups --all-extras
	@touch .venv/.runtime $@
