# make quickstart   compare ten methods on three small data sets
# make test         the fast tests
# make check        ruff, pyright, mypy and the rule of imports
# make docs         build the documentation into site/, warnings as errors
# make figures      make the outputs and figures that the pages show anew (minutes)
# make accelerator  prove lrjax on the GPU or TPU that is here (FLAGS=--minutes=30)
#
# Each makes .venv by itself. PYTHON=... chooses an interpreter (3.11 to 3.14),
# REQUIREMENTS=... a requirements file; otherwise the machine is looked at.

SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
  if $$p -c '$(SUPPORTED)' 2>/dev/null; then echo $$p; break; fi; done)
REQUIREMENTS ?= $(shell \
  if nvidia-smi -L >/dev/null 2>&1; then echo requirements.txt; \
  elif ls /dev/accel0 >/dev/null 2>&1 || { ls /dev/vfio/0 >/dev/null 2>&1 \
    && grep -qs Google /sys/class/dmi/id/product_name; }; then \
    echo requirements-tpu.txt; \
  else echo requirements-cpu.txt; fi)
BIN := .venv/bin

.PHONY: quickstart test check docs figures accelerator
.DELETE_ON_ERROR:

quickstart: .venv/installed
	$(BIN)/python main.py --config=configs/quickstart.py --workdir=runs/quickstart

test: .venv/installed-dev
	$(BIN)/python -m pytest -n auto

check: .venv/installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_imports.py

docs: .venv/installed-docs
	$(BIN)/python docs/build.py

figures: .venv/installed
	$(BIN)/python docs/figures.py

accelerator: .venv/installed
	$(BIN)/python -m benchmarks.accelerator $(FLAGS)

.venv/installed: $(REQUIREMENTS) requirements-cpu.txt pyproject.toml
	@test -n "$(PYTHON)" || { \
	  echo "error: no Python 3.11 to 3.14 found; set PYTHON=/path/to/python" >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -q -r $(REQUIREMENTS)
	$(BIN)/python -m pip install --disable-pip-version-check -q --no-deps -e .
	touch $@

.venv/installed-dev: .venv/installed requirements-dev.txt
	$(BIN)/python -m pip install --disable-pip-version-check -q -r requirements-dev.txt
	touch $@

.venv/installed-docs: .venv/installed requirements-docs.txt
	$(BIN)/python -m pip install --disable-pip-version-check -q -r requirements-docs.txt
	touch $@
