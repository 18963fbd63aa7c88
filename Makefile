# `make demo` trains a small model without and with the loss; `make test` runs the whole suite; `make lint` checks the
# style and the types; `make bench` measures the ops; `make docs` fills docs/measured/; `make cubins` reads the
# kernels' machine code and predicts times from it; `make machine-code` runs all tests of Triton's kernels on their machine
# code, and its mutants, with no GPU: with about a fifth of a core, sm_90 took 47 minutes and the mutants 50. Each of them
# sets up .venv first.
PYTHON ?= python3
BIN := .venv/bin
# pip installs nvcc for the extension's CUDA half; `make NVCC=` uses the CUDA toolkit of the machine instead, if any.
NVCC ?= $(if $(filter Linux,$(shell uname)),nvidia-cuda-nvcc nvidia-cuda-crt nvidia-nvvm nvidia-cuda-cccl)
CSRC := $(wildcard csrc/*.* csrc/*/*.*)
MACHINES := $(wildcard tests/machine_code/*/*.cpp tests/machine_code/*/*.h)

.PHONY: demo test lint bench cubins docs machine-code clean

demo: .venv/installed
	$(BIN)/python -m inverseform_fast.segmentation.demo

test: .venv/installed lint
	$(BIN)/python -m pytest -n auto --maxprocesses 4
	TRITON_INTERPRET=1 $(BIN)/python -m pytest -m "kernel or triton" -n auto --maxprocesses 4 tests/kernels

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(CSRC) $(MACHINES)

bench: .venv/installed
	mkdir -p runs/benchmarks
	$(BIN)/python -m pytest benchmarks --benchmark-json=runs/benchmarks/raw.json

cubins: .venv/installed
	$(BIN)/python -m benchmarks.compiled.cubins
	$(BIN)/python -m benchmarks.compiled.predict
	$(BIN)/python -m benchmarks.pages

docs: .venv/installed
	$(BIN)/python -m benchmarks.pages

machine-code: .venv/installed
	for capability in 80 90 100; do \
		MACHINE_CODE=$$capability KERNEL_SEED=1 $(BIN)/python -m pytest -m "kernel or triton" \
			-n auto --maxprocesses 4 --timeout 3000 tests/kernels || exit; \
	done
	PYTHONPATH=.:tests $(BIN)/python -m machine_code.ptx.mutants

.venv/installed: pyproject.toml constraints.txt setup.py $(CSRC)
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -c constraints.txt torch numpy ninja setuptools $(NVCC)
	$(BIN)/python -m pip install -c constraints.txt --no-build-isolation -e ".[dev]"
	touch $@

clean:
	rm -rf .venv build dist *.egg-info inverseform_fast/*.so
