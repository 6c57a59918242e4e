# make install | demo | demo-llm | test | nightly | quick | lowest | gpu-check | lint | format | docs | bench | constraints | clean
# The first two need nothing but Python with venv, on x86-64 Linux with glibc >= 2.35. Python 3.13 and later need a
# 3.10, 3.11 or 3.12 beside them, for the embedded server.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
WITH_VLLM := $(VENV)/.with-vllm
WITH_OPTIMUM := $(VENV)/.with-optimum
STUBS := $(VENV)/tensorrt-stubs
SERVER_LIST := perf/server/environment/requirements.txt
VLLM_LIST := perf/server/environment/vllm.txt
OPTIMUM_LIST := perf/server/environment/optimum.txt
# Three processes for two cores, as tests of servers wait much of their time. A file's tests stay together, with their fixtures; the order is conftest's.
SPREAD := -n 3 --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help install demo demo-llm test nightly quick lowest gpu-check lint format docs bench constraints server-requirements clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 21

install: $(STAMP)  ## make .venv with all that demo and tests need

$(STAMP): pyproject.toml constraints.txt $(SERVER_LIST) examples/demo/requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 10) <= sys.version_info[:2] <= (3, 14) else "tritonsmith needs Python 3.10 to 3.14; choose one with: make install PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --no-deps --requirement examples/demo/requirements.txt
	$(BIN)/tritonsmith server install
	@touch $@

demo: $(STAMP)  ## spec → repository → live Triton → sweep → report, on three real models
	$(BIN)/tritonsmith demo

$(WITH_VLLM): $(STAMP) $(VLLM_LIST)
	$(BIN)/tritonsmith server install --with vllm
	@touch $@

$(WITH_OPTIMUM): $(WITH_VLLM) $(OPTIMUM_LIST)
	$(BIN)/tritonsmith server install --with optimum
	@touch $@

# What is built, measured and reported lies in examples/chat.
CHAT := cd examples/chat && $(CURDIR)/$(BIN)/tritonsmith
demo-llm: $(WITH_VLLM)  ## a language model: build, load by tokens, one request at a time against continuous batching
	$(BIN)/python -m pip install --quiet --no-deps --requirement examples/chat/requirements.txt
	$(CHAT) build
	$(CHAT) load model_repository -m chat --tokens --concurrency 16 --isl 64 --osl 64 --duration 15s
	$(CHAT) sweep -m chat --set engine.max_num_seqs=1 --concurrency 1,16 --rounds 3 --output demo-llm-report --overwrite

test: $(WITH_VLLM)  ## the whole test suite
	$(BIN)/python -m pytest $(SPREAD)

nightly: $(WITH_OPTIMUM)  ## the whole suite with its longest tests
	$(BIN)/python -m pytest $(SPREAD) --nightly

quick: $(STAMP)  ## the tests that take seconds
	$(BIN)/python -m pytest $(SPREAD) -m "not slow and not server and not demo"

# Of what needs neither torch nor a server: a base install with the lowest versions that pyproject.toml promises.
LOWEST := .venv-lowest
lowest:  ## the pure tests with the lowest versions that pyproject.toml promises (needs uv)
	uv venv --quiet --clear --python 3.10 $(LOWEST)
	uv pip compile pyproject.toml --quiet --resolution lowest-direct --python-version 3.10 --no-header \
	    --output-file $(LOWEST)/lowest.txt
	uv pip install --quiet --python $(LOWEST) --requirement $(LOWEST)/lowest.txt \
	    editables hypothesis jsonschema pytest pytest-timeout pytest-xdist
	uv pip install --quiet --python $(LOWEST) --no-deps --editable .
	$(LOWEST)/bin/python -m pytest $(SPREAD) -m "not slow and not server and not demo" \
	    tests/builder/lint tests/builder/lint/test_diff.py tests/builder/importing/test_import.py tests/builder/model_config/test_model_config.py \
	    tests/builder/plan/test_plan.py tests/builder/spec/test_spec.py tests/perf/stats/test_stats.py tests/perf/sweep/test_sweep.py \
	    tests/perf/wire tests/test_command_line.py

# By the Python that has torch and CUDA's libraries: .venv's when it is made, else $(PYTHON), with wheels from WHEELS.
CHECKED_BY := $(if $(WHEELS),$(PYTHON),$(if $(wildcard $(STAMP)),$(BIN)/python,$(PYTHON)))
gpu-check:  ## what of all this works on this machine's GPU: ten minutes at most, no network (WHEELS=DIR, ARGS=…)
	$(CHECKED_BY) -m tritonsmith.perf.doctor.gpu_check $(if $(WHEELS),--wheels $(WHEELS)) $(ARGS)

# TensorRT itself is not there: its stubs lie apart, where no interpreter takes them for the module.
$(STUBS): | $(STAMP)
	$(BIN)/python -m pip install --quiet --no-deps --target $@ tensorrt-stubs==10.13.0.35.1

lint: $(STAMP) $(STUBS)  ## ruff, mypy (TensorRT's stubs, too), import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python tests/builder/actions/compile/check_types.py $(STUBS)
	$(BIN)/lint-imports

format: $(STAMP)  ## let ruff rewrite
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(STAMP)  ## the pages of docs/ as a site, in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "site/index.html is made; to read it: $(BIN)/python -m http.server --directory site"

bench: $(STAMP)  ## benchmarks; they print, they never fail on time
	$(BIN)/python -m tests.bench

# nvidia-pytriton is there for the tritonserver in it: nothing that its Python code needs is installed.
# What optimum-intel imports to convert a language model: without nncf, with which it would quantise large ones unasked, and
# torchvision, which breaks beside a torch of another index.
OPTIMUM := 'optimum-intel==2.2.0' 'optimum==2.3.0' 'transformers<5.6' 'tokenizers<0.23' 'huggingface-hub<1.22' safetensors \
    sentencepiece tiktoken regex requests urllib3 charset-normalizer httpx httpcore h11 anyio idna certifi pyyaml tqdm packaging
LOCK := uv pip compile - --universal --python-version 3.10 --generate-hashes --no-header --no-annotate --quiet
server-requirements:  ## lock anew what the embedded server's own Python holds (needs uv)
	echo "# Made by \`make server-requirements\`." > $(SERVER_LIST)
	echo "nvidia-pytriton==0.7.0" | $(LOCK) --no-deps >> $(SERVER_LIST)
	printf 'numpy<2\nonnxruntime>=1.19\n' | $(LOCK) >> $(SERVER_LIST)
	echo "# Made by \`make server-requirements\`." > $(VLLM_LIST)
	printf 'numpy<2\nopenvino-genai>=2026.4\n' | $(LOCK) --no-emit-package numpy >> $(VLLM_LIST)
	echo "# Made by \`make server-requirements\`. Beside torch and what that brings, which have no hashes: each index has its own." > $(OPTIMUM_LIST)
	printf '%s\n' $(OPTIMUM) | $(LOCK) --no-deps >> $(OPTIMUM_LIST)

constraints:  ## resolve constraints.txt anew for every supported Python (needs uv)
	rm -f constraints.txt
	uv pip compile pyproject.toml --extra dev --universal --python-version 3.10 \
	    --no-header --no-annotate --quiet --output-file constraints.txt
# The markers that [tool.uv] environments implies everywhere say nothing.
	sed -i "s/ and platform_machine == 'x86_64' and sys_platform == 'linux'//; \
	    s/ ; python_full_version < '3.15'$$//; s/ and python_full_version < '3.15'//" constraints.txt

clean:  ## remove what was generated, the environment too
	rm -rf $(VENV) $(LOWEST) dist build site .mypy_cache .ruff_cache .pytest_cache demo-report
	find model_repository -mindepth 1 ! -name README.md -delete
