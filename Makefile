# Every target sets itself up: Python 3.11, pip and make are all it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: setup demo ui test test-all test-kernels coverage lint bench-learned bench-ablations bench-claims bench-speed bench-cpu bench-gpu soak doctor clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(READY)

demo: $(READY)  ## collect, train, evaluate on the shipped model, through Ray and MLflow
	$(BIN)/python jobs/demo.py --out runs/demo

ui: $(READY)  ## the MLflow comparison of what the demo wrote
	$(BIN)/python jobs/demo.py --out runs/demo --ui

doctor: $(READY)  ## is this machine, or the cluster of RAY_ADDRESS, ready? DOCTOR='--out URI ...' asks more
	$(BIN)/python jobs/doctor.py $(DOCTOR)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PYRIGHT_PYTHON_CACHE_DIR=$(VENV)/pyright PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright

test: lint  ## what CI runs
	$(BIN)/python -m pytest -m 'not slow' -q

test-all: lint test-kernels  ## with the slow tests: killed workers, the demo itself
	$(BIN)/python -m pytest -q

# Tests that compare batches of other sizes or orders.
ACROSS_BATCHES := tests/dqar/control/test_cross_branch_threshold.py \
	tests/dqar/control/test_exposure.py tests/dqar/control/test_skipping.py \
	tests/dqar/cache/test_kv_cache.py tests/dqar/policy/test_planner.py \
	tests/benchmarks/quality/test_ablations.py tests/pipeline/methods/test_calibration.py

test-kernels: $(READY)  ## the same with other kernels, which round otherwise, and two threads
	MKL_ENABLE_INSTRUCTIONS=AVX2 DQAR_TEST_THREADS=2 OMP_WAIT_POLICY=PASSIVE \
	  $(BIN)/python -m pytest -q -p tests.rounding_by_rows -m 'not slow' $(ACROSS_BATCHES)

bench-learned: $(READY)  ## the tables of docs/results.md: 5 seeds x 64 samples, both sites and attention only
	$(BIN)/python -m benchmarks.quality.learned_vs_baselines --sites attn,ff --fits policy,plain,local --out runs/bench-both \
	  --methods fewer-steps,interval,interval-forecast1,interval-forecast2,smoothcache-tied,router
	$(BIN)/python -m benchmarks.quality.learned_vs_baselines --sites attn --out runs/bench-attention

bench-ablations: $(READY)  ## what designs and features are worth to plans (docs/results.md)
	$(BIN)/python -m benchmarks.quality.ablations designs --out runs/ablate-designs
	$(BIN)/python -m benchmarks.quality.ablations features --out runs/ablate-features

bench-claims: $(READY)  ## the seeds' claims of docs/paper_results.md: 5 seeds x 128 samples
	$(BIN)/python -m benchmarks.quality.paper_claims --out runs/seed-claims

bench-speed: $(READY)  ## docs/performance.md: reuse on the clock beside its bound, on the CPU
	$(BIN)/python -m benchmarks.timing.speed --model dit-s-2-256 --device cpu --batch 4 --quick

bench-cpu: $(READY)  ## every result of docs/performance.md for a CPU; hours, taken up where it stopped
	$(BIN)/python -m benchmarks.timing.suite --device cpu --models dit-s-2-256 dit-b-2-256 --batches 1 4 --kinds speed costs decide scaling

bench-gpu: $(READY)  ## the same for a GPU
	$(BIN)/python -m benchmarks.timing.gpu_suite

soak: $(READY)  ## 200 faults over many small collections (docs/reliability.md); hours, taken up where it stopped
	$(BIN)/python -m benchmarks.distributed.soak --faults 200

coverage: $(READY)  ## lines of dqar/ that its tests run: at least 95%
	$(BIN)/python -m pytest -q tests/dqar --cov=dqar --cov-report=term --cov-fail-under=95

clean:
	rm -rf $(VENV) runs .pytest_cache .ruff_cache .hypothesis build *.egg-info
