PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: quickstart demo test benchmark soak lint clean

quickstart: $(VENV)/installed  ## A whole run on the synthetic characters, in minutes.
	$(BIN)/python main.py --config=configs/quickstart.py

demo: $(VENV)/installed-demo  ## A page in the browser, on which you draw characters for trained weights to learn.
	$(BIN)/python main.py --mode=demo --pretrained=omniglot_5way

test: $(VENV)/installed-test  ## All tests; those on real images need REPTILE_OMNIGLOT=DIR and REPTILE_MINIIMAGENET=DIR.
	$(BIN)/python -m pytest --numprocesses=2 --dist=loadfile

benchmark: $(VENV)/installed-test  ## This project against the PyTorch implementation, on this machine; nothing else may run.
	$(BIN)/python main.py --mode=benchmark

soak: $(VENV)/installed-test  ## Kills real runs at 20 moments; those in data preparation need REPTILE_OMNIGLOT=DIR.
	rm -rf runs/soak
	$(BIN)/python -m reptile_jax.testing.soak runs/soak

lint: $(VENV)/installed-test  ## Style, format and types.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build *.egg-info

$(VENV)/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version.split()[0]; sys.exit(sys.version_info < (3, 11) and f"error: Python {v} is too old, 3.11 is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --editable .
	touch $@

$(VENV)/installed-demo: $(VENV)/installed
	$(INSTALL) --editable '.[demo]'
	touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(INSTALL) --editable '.[test]'
	touch $@
