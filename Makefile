# Two commands do everything on a fresh machine: `make quickstart` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: quickstart test lint bench gpu lock clean

$(INSTALLED): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("frontload needs Python 3.11 or newer; run make PYTHON=python3.11") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -e .
	touch $@

quickstart: $(INSTALLED)  ## Four models, 57 stages, one report: about ten minutes on two cores.
	$(BIN)/frontload study run studies/quickstart.yaml

test: lint  ## Lint, types and every test.
	$(BIN)/pytest -n 2 --dist worksteal

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(INSTALLED)  ## Side by side with peers; writes benchmarks/results/.
	$(BIN)/python benchmarks/training.py
	$(BIN)/python benchmarks/generation.py
	$(BIN)/python benchmarks/kv_speed.py
	$(BIN)/python benchmarks/kv_fuzz.py

gpu: $(INSTALLED)  ## Everything that needs a CUDA device, in one go.
	$(BIN)/python benchmarks/training.py --device cuda --output benchmarks/results/training-cuda.json
	$(BIN)/python benchmarks/kv_gpu.py

lock: $(INSTALLED)  ## Write down what is installed now.
	$(BIN)/pip freeze --exclude-editable --exclude frontload | sed 's/+cpu//' > requirements.lock

clean:
	rm -rf $(VENV) build dist src/*.egg-info
