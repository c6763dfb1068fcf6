# make demo        the whole pipeline on the bundled local web
# make test        every check, and every test but the slow ones (about 17 minutes on two cores)
# make check-slow  the slow tests: kill -9 in every stage, the tests in a network namespace, learning checks
# make bench       all measurements; bench-NAME runs one of them
# make gpu-report  check and measure on a GPU, in seven minutes; make gpu-wheels collects packages for it (docs/gpu.md)
# make check-quality  compare the extracted texts with marked pages; make train-blocks trains the model that chooses them
# make lint        ruff, mypy and the import rules
# make clean       remove the virtual environment and caches; a lake and the state directory are left alone
#
# NANOGPT=DIR is a checkout of nanoGPT for bench-train and gpu-report. Without it, they do not compare with nanoGPT.
# IDENTIFIERS=DIR is the virtual environment of the peers of bench-language, DATATROVE=DIR that of bench-filters and bench-data.
# PAGES='DIR DIR' are folders of real pages for bench-data, DOCUMENTS=N how many documents it makes.
# GPU_PYTHON=3.12 is the version of Python on the machine with the GPU.
# PYTHON=python3.12 picks another interpreter, VENV=DIR another virtual environment. PIP_FLAGS goes to pip.

PYTHON ?= python3
VENV ?= .venv
GPU_PYTHON ?= 3.12
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PEERS := $(VENV)/.installed-peers
IDENTIFIERS ?= .venv-language
DATATROVE ?= .venv-datatrove

# Tests start hundreds of processes. With compiled modules each of them starts half a second sooner.
export PYTHONDONTWRITEBYTECODE =

.PHONY: demo test check-slow lint check-quality train-blocks clean install gpu-report gpu-wheels bench bench-extraction \
	bench-language bench-filters bench-dedup bench-tokens bench-overlap bench-data bench-links bench-crawl bench-train bench-loss \
	bench-recipe bench-residual bench-eval

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(PIP_FLAGS) --constraint constraints.txt --editable '.[dev]'
	@touch $@

$(PEERS): $(INSTALLED)
	$(BIN)/python -m pip install --quiet $(PIP_FLAGS) --constraint constraints.txt --editable '.[dev,bench]'
	@touch $@

$(IDENTIFIERS)/.installed: benchmarks/language_peers/requirements.txt
	$(PYTHON) -m venv $(IDENTIFIERS)
	$(IDENTIFIERS)/bin/python -m pip install --quiet $(PIP_FLAGS) --requirement benchmarks/language_peers/requirements.txt
	@touch $@

$(DATATROVE)/.installed: benchmarks/data_peers/datatrove.txt
	$(PYTHON) -m venv $(DATATROVE)
	$(DATATROVE)/bin/python -m pip install --quiet $(PIP_FLAGS) --requirement benchmarks/data_peers/datatrove.txt
	@touch $@

demo: $(INSTALLED)
	$(BIN)/webtext demo

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Three workers for two cores, because many tests wait: for servers, for processes, for time-outs.
test: lint
	$(BIN)/python -m pytest --numprocesses 3

check-slow: $(INSTALLED)
	$(BIN)/python -m pytest -m slow --timeout 3600

bench: bench-extraction bench-language bench-filters bench-dedup bench-tokens bench-overlap bench-data bench-links bench-crawl \
	bench-train bench-loss bench-recipe bench-residual bench-eval

bench-extraction: $(INSTALLED)
	$(BIN)/python -m benchmarks.extraction

check-quality: $(INSTALLED)
	$(BIN)/python -m benchmarks.extraction --check

train-blocks: $(PEERS)
	$(BIN)/python -m benchmarks.blocks --to data/text/blocks.npz

bench-language: $(INSTALLED) $(IDENTIFIERS)/.installed
	$(BIN)/python -m benchmarks.language --peers $(IDENTIFIERS)/bin/python

bench-filters: $(INSTALLED) $(DATATROVE)/.installed
	$(BIN)/python -m benchmarks.filters --datatrove $(DATATROVE)/bin/python

bench-links: $(INSTALLED)
	$(BIN)/python -m benchmarks.links

bench-crawl: $(PEERS)
	$(BIN)/python -m benchmarks.crawl

# FULL=1 judges 10 million documents against 1, 3 and 10 million: 25 GB of disk.
bench-dedup: $(INSTALLED)
	$(BIN)/python -m benchmarks.dedup $(if $(FULL),--full)

bench-tokens: $(INSTALLED)
	$(BIN)/python -m benchmarks.tokens

bench-overlap: $(INSTALLED)
	$(BIN)/python -m benchmarks.overlap

bench-data: $(INSTALLED) $(DATATROVE)/.installed
	$(BIN)/python -m benchmarks.data --datatrove $(DATATROVE)/bin/python $(addprefix --pages ,$(PAGES)) $(if $(DOCUMENTS),--documents $(DOCUMENTS))

bench-train: $(INSTALLED)
	$(BIN)/python -m benchmarks.train $(if $(NANOGPT),--nanogpt $(NANOGPT))

bench-loss: $(INSTALLED)
	$(BIN)/python -m benchmarks.loss

bench-recipe: $(INSTALLED)
	$(BIN)/python -m benchmarks.recipe --to docs/images/recipe.svg

bench-residual: $(INSTALLED)
	$(BIN)/python -m benchmarks.residual

bench-eval: $(PEERS)
	$(BIN)/python -m benchmarks.eval

gpu-report: # with the Python that has the machine's torch, not with .venv
	$(PYTHON) -m benchmarks.gpu $(if $(NANOGPT),--nanogpt $(NANOGPT))

gpu-wheels: $(INSTALLED)
	$(BIN)/python -m benchmarks.gpu.needs gpu-wheels --python $(GPU_PYTHON)

clean:
	-test ! -x $(BIN)/webtext || $(BIN)/webtext ui --stop
	rm -rf $(VENV) $(IDENTIFIERS) $(DATATROVE) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	rm -rf .hypothesis
