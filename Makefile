# make demo | test | soak | check | bench | study-tables | gpu: each first installs what it needs into .venv, and only if that has
# changed. For make bench ROW=7 SIZE=smoke see benchmarks/README.md.
PYTHON ?= python3
# The CPU build of torch (on macOS it is the only one), and where to get it if the configured index
# does not have it.
TORCH_VERSION ?= 2.13.0$(if $(filter Darwin,$(shell uname)),,+cpu)
TORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu
VENV := .venv
BIN := $(VENV)/bin
DEMO := .demo
STAMP := $(VENV)/.installed
ROW ?=
SIZE ?= full
# Processes that run tests: more of them need more memory (about 4 GiB each, where both run vLLM).
WORKERS ?= 2
MINUTES ?= 10
SEED ?= 0
# For tests: beside the other packages, because verifiers wants older versions of datasets and others
# than we test with, and runs with ours.
VERIFIERS := verifiers==0.1.14 aiofiles==25.1.0 aiolimiter==1.3.0 connectrpc==0.11.1 griffelib==2.4.1 \
  msgpack==1.2.4 openai-agents==0.24.0 prime-sandboxes==0.5.1 prime-tunnel==0.1.15 protobuf-py==0.1.1 \
  protobuf-py-ext==0.1.1 pyqwest==0.12.0
# For tests: the tools that open the logs of `drpo eval --export`, apart for the same reason, with the
# packages that these imports need.
PEERS := inspect_ai==0.3.285 lm_eval==0.4.13 botocore==1.43.117 jsonlines==4.0.0 jsonpatch==1.48 jsonpointer==3.12 \
  mmh3==5.3.1 nest-asyncio2==1.7.4 semver==3.1.2 shortuuid==1.0.13 textual==8.2.8 zipfile-zstd==0.0.4 zstandard==0.25.0
# Packages for a GPU machine without a network that has torch, transformers, and most of the rest.
WHEELS := .wheels
GPU_TAGS := --only-binary=:all: --python-version 3.12 --implementation cp --platform manylinux_2_28_x86_64 \
  --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 --platform manylinux1_x86_64
GPU_PYTHON = $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON))
OUT ?= .bench/gpu

.PHONY: demo test soak check bench bench-env gpu gpu-wheels format docs study-tables pictures clean
.DELETE_ON_ERROR:

demo: $(STAMP)
	test -f $(DEMO)/run.toml || $(BIN)/drpo init $(DEMO) --template quickstart
	rm -rf $(DEMO)/runs/quickstart
	$(BIN)/drpo train $(DEMO)/run.toml
	$(BIN)/drpo eval $(DEMO)/model $(DEMO)/runs/quickstart --spec $(DEMO)/run.toml

# With bytecode: each process of a run would else compile our modules anew.
test: $(STAMP)
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --durations=25

# Puts random faults into real runs, and compares their ends with an undisturbed one.
soak: $(STAMP)
	PYTHONPATH=tests $(BIN)/python -m support.soak --minutes $(MINUTES) --seed $(SEED)

check: $(STAMP)
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

bench: $(STAMP)
	$(BIN)/python -m benchmarks $(ROW) --size $(SIZE)

bench-env: $(STAMP)
	$(BIN)/python -m benchmarks._trl_env

# Installs nothing but the carried wheels: the machine may have no network (docs/gpu.md).
gpu:
	test ! -d $(WHEELS) || $(GPU_PYTHON) -m pip install --quiet --no-index --no-deps --upgrade \
	  --target $(WHEELS)/site $(WHEELS)/*.whl
	PYTHONPATH=$(CURDIR):$(CURDIR)/$(WHEELS)/site:$$PYTHONPATH $(GPU_PYTHON) -m benchmarks.gpu --out $(OUT)

gpu-wheels:
	rm -rf $(WHEELS)
	$(PYTHON) -m pip download --quiet -d $(WHEELS) $(GPU_TAGS) pydantic
	$(PYTHON) -m pip download --quiet --no-deps -d $(WHEELS) $(GPU_TAGS) \
	  tomli tomli-w msgspec tenacity bokeh tornado xyzservices

format: $(STAMP)
	$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

docs: $(STAMP)
	$(BIN)/python -m drpo_cli.spec.reference > docs/spec.md
	$(BIN)/python -m drpo_cli.cli.reference > docs/cli.md
	$(BIN)/drpo explain drpo:delta=0.2 dppo ppo_clip spo --out docs/figures/weights.svg
	$(BIN)/drpo explain cispo sapo gspo ppo_clip:dual_clip=3 --out docs/figures/weights-more.svg
	$(BIN)/drpo explain drpo:delta=0.05 drpo drpo:delta=1 drpo:delta=12.5 --out docs/figures/regimes.svg
	test -d $(DEMO)/runs/quickstart || $(MAKE) demo
	$(BIN)/drpo watch $(DEMO)/runs/quickstart --out docs/figures/view.svg

# Writes the tables of docs/study.md and of README's quickstart again, from the results in docs/results.
study-tables: $(STAMP)
	$(BIN)/python -m drpo_cli.tools.compare.pages docs/study.md README.md

# Pictures of the run that `make demo` leaves; needs Debian's chromium.
pictures: $(STAMP)
	$(BIN)/python docs/pictures.py $(DEMO)/runs/quickstart

clean:
	rm -rf $(VENV) $(DEMO)

# torchvision, torchaudio and torchcodec come as CUDA builds next to a CPU torch, and break the imports
# of transformers. The pipeline is text only and needs none of them, so they are uninstalled again.
# torchao, for the tests of train.float8, lies apart (tests/support/eight_bits.py): where transformers
# finds it, every process imports it, which takes a second.
$(STAMP): pyproject.toml Makefile
	$(PYTHON) -c 'import sys; sys.exit("drpo needs Python 3.11 or newer: make PYTHON=…" if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -c 'import importlib.metadata as m, sys; sys.exit(m.version("torch") != "$(TORCH_VERSION)")' 2>/dev/null \
	  || $(BIN)/pip install --quiet "torch==$(TORCH_VERSION)" \
	  || $(BIN)/pip install --quiet "torch==$(TORCH_VERSION)" --extra-index-url $(TORCH_CPU_INDEX)
	$(BIN)/pip install --quiet -e ".[cpu,dev]"
	$(BIN)/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	$(BIN)/pip install --quiet --no-deps --upgrade --target $(VENV)/float8 torchao
	$(BIN)/pip install --quiet --no-deps --upgrade --target $(VENV)/verifiers $(VERIFIERS)
	$(BIN)/pip install --quiet --no-deps --upgrade --target $(VENV)/peers $(PEERS)
	touch $@
