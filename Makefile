# Two commands from a fresh clone: `make demo` and `make test`. Needs python3 (3.10 to 3.13) and make only.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
LOCO_VENV ?= .venv-loco
LOCO_STAMP := $(LOCO_VENV)/.installed
DEMO_SEED ?= 0
TEST_PROCESSES ?= 2
# One torch thread: small networks gain nothing from two, and lose badly when something else runs.
export OMP_NUM_THREADS ?= 1
export MKL_NUM_THREADS ?= 1

.PHONY: demo test lint test-loco clean

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 10) <= sys.version_info[:2] <= (3, 13) else "motionlex needs Python 3.10 to 3.13")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(STAMP)
	@mkdir -p demo
	$(BIN)/motionlex simulate "stand still:5" "walk forward:5" "turn left:5" "wave:5" --seed $(DEMO_SEED) --video demo/h1.mp4 --json
	@echo "video: demo/h1.mp4"

# Two processes, a file of tests to each in turn: what a file shares is made once.
test: $(STAMP)
	$(BIN)/python -m pytest --numprocesses $(TEST_PROCESSES) --dist loadfile

# loco-mujoco wants an older MuJoCo and numpy: an environment of its own, in which only what it leaves open is pinned.
$(LOCO_STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(LOCO_VENV)
	grep -E '^(torch|gymnasium|stable_baselines3|transformers|jaxtyping|beartype|pytest)==' constraints.txt > $(LOCO_VENV)/constraints.txt
	$(LOCO_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c $(LOCO_VENV)/constraints.txt -e '.[loco]' pytest beartype
	@touch $@

test-loco: $(LOCO_STAMP)
	JAX_PLATFORMS=cpu $(LOCO_VENV)/bin/python -m pytest tests/test_loco_parity.py $(wildcard tests/test_envs_*.py tests/test_data_*.py)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf $(VENV) $(LOCO_VENV) build dist *.egg-info demo
