# make train   install into .venv and train the main job     make train ARGS="zero=stage3 precision=bf16"
# make test    install and run the tests                     make test-gpu   those that need a GPU
# make test-chaos BUDGET=60 JOBS=2   long tests of faults, as many cases as fit each test's seconds, and of others' models
# make test-hosts   those of several hosts and of Slurm; as root it installs what Debian packages are missing
# make test-fuzz BUDGET=600 JOBS=2   random programs against plain PyTorch, as many as fit the seconds; SEED=1000
# make lint    check style and format                        make format     put both right
# make docs    the pages as a site in site/                  make dist       packages in dist/, checked
PYTHON ?= python3
ARGS ?=
TESTS ?= -n 2
BUDGET ?= 60
JOBS ?= 1
RECORD ?=
SEED ?= 1000
BIN := .venv/bin
INSTALLED := .venv/.installed

export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_BUILD_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: train test test-gpu test-hosts test-chaos test-fuzz lint format docs dist install clean

train: $(INSTALLED)
	$(BIN)/zerokit $(ARGS)

test: $(INSTALLED)
	$(BIN)/python -m pytest -m "not gpu and not chaos and not hosts" $(TESTS)

# BUDGET: seconds for each test, 0 for all its cases; JOBS: cases side by side; RECORD=1 writes tests/chaos/RESULTS.md
test-chaos: $(INSTALLED)
	$(BIN)/python -m pytest -m chaos --budget $(BUDGET) --jobs $(JOBS) $(if $(RECORD),--record) tests/chaos tests/huggingface

# Hosts are network namespaces, for which Linux needs root; what cannot be had is skipped with the reason (-rs).
test-hosts: $(INSTALLED)
	$(BIN)/python -m pytest -rs --install tests/hosts

# SEED: of the first program, the others follow; RECORD=1 writes tests/fuzz/RESULTS.md
test-fuzz: $(INSTALLED)
	$(BIN)/python -m tests.fuzz --seed $(SEED) --budget $(BUDGET) --jobs $(JOBS) $(if $(RECORD),--record)

test-gpu: $(INSTALLED)
	$(BIN)/python -m pytest -m gpu

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The variable quiets a note of the theme about a successor of MkDocs.
docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build -q

dist: $(INSTALLED)
	rm -rf dist
	$(BIN)/python -m build --no-isolation
	$(BIN)/python -m twine check --strict dist/*

install: $(INSTALLED)

# The venv borrows the pip of $(PYTHON), so that Debian's python3 does it without its python3-venv package; that of the
# interpreter under it, if $(PYTHON) is itself in a venv. It gets one of its own too, for a user's `pip install`.
BASE = "$$($(PYTHON) -c 'import sys; print(sys._base_executable)')"
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"Python 3.11 or newer is needed, {sys.executable} is {sys.version.split()[0]}. Try: make PYTHON=python3.12")'
	$(BASE) -m venv --without-pip .venv
	$(BASE) -m pip --python $(BIN)/python install --quiet pip --editable '.[dev]'
	@touch $@

clean:
	rm -rf .venv
