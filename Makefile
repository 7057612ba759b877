# Every target creates the virtual environment first; Python 3.11, pip and make must be installed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: setup demo ui test test-all test-kernels coverage lint docs bench-learned bench-ablations bench-claims bench-speed bench-cpu bench-gpu soak fuzz doctor clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(READY)

demo: $(READY)  ## collect, train and evaluate on the shipped model with Ray and MLflow
	$(BIN)/python jobs/demo.py --out runs/demo

ui: $(READY)  ## open the MLflow comparison of the demo's runs
	$(BIN)/python jobs/demo.py --out runs/demo --ui

doctor: $(READY)  ## check this machine or the cluster of RAY_ADDRESS; DOCTOR='--out URI ...' adds flags
	$(BIN)/python jobs/doctor.py $(DOCTOR)

DOCS_READY := $(VENV)/.docs-ready

$(DOCS_READY): $(READY)
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e '.[docs]'
	touch $(DOCS_READY)

docs: $(DOCS_READY)  ## the documentation as a site that needs no network; a broken link fails
	$(BIN)/python -m sphinx -q -W --keep-going -c docs/site -d build/doctrees . build/site
	@echo "Open build/site/index.html"

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PYRIGHT_PYTHON_CACHE_DIR=$(VENV)/pyright PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright

test: lint  ## lint, and all tests that are not marked slow, two files at a time
	$(BIN)/python -m pytest -m 'not slow' -q -n 2 --dist loadfile

test-all: lint test-kernels  ## lint and all tests, killed workers and the demo included; CI runs this
	$(BIN)/python -m pytest -q

# Tests that compare results between batch sizes or between orders of samples.
ACROSS_BATCHES := tests/dqar/control/test_cross_branch_threshold.py \
	tests/dqar/control/test_exposure.py tests/dqar/control/test_skipping.py \
	tests/dqar/cache/test_kv_cache.py tests/dqar/policy/test_planner.py \
	tests/benchmarks/quality/test_ablations.py tests/pipeline/methods/test_calibration.py

test-kernels: $(READY)  ## these tests with two threads and kernels that round differently
	MKL_ENABLE_INSTRUCTIONS=AVX2 DQAR_TEST_THREADS=2 OMP_WAIT_POLICY=PASSIVE \
	  $(BIN)/python -m pytest -q -p tests.rounding_by_rows -m 'not slow' $(ACROSS_BATCHES)

bench-learned: $(READY)  ## tables of docs/results.md: 5 seeds x 64 samples, for attn,ff and for attn
	$(BIN)/python -m benchmarks.quality.learned_vs_baselines --sites attn,ff --fits policy,plain,local --out runs/bench-both \
	  --methods fewer-steps,interval,interval-forecast1,interval-forecast2,smoothcache-tied,router
	$(BIN)/python -m benchmarks.quality.learned_vs_baselines --sites attn --out runs/bench-attention

bench-ablations: $(READY)  ## ablations of exploration designs and features (docs/results.md)
	$(BIN)/python -m benchmarks.quality.ablations designs --out runs/ablate-designs
	$(BIN)/python -m benchmarks.quality.ablations features --out runs/ablate-features

bench-claims: $(READY)  ## the DQAR paper's claims (docs/paper_results.md): 5 seeds x 128 samples
	$(BIN)/python -m benchmarks.quality.paper_claims --out runs/seed-claims

bench-speed: $(READY)  ## speed-up of reuse beside its upper bound, on the CPU (docs/performance.md)
	$(BIN)/python -m benchmarks.timing.speed --model dit-s-2-256 --device cpu --batch 4 --quick

bench-cpu: $(READY)  ## all CPU results of docs/performance.md: hours; a second run continues the first
	$(BIN)/python -m benchmarks.timing.suite --device cpu --models dit-s-2-256 dit-b-2-256 --batches 1 4 --kinds speed costs decide scaling

bench-gpu: $(READY)  ## all GPU results of docs/performance.md; a second run continues the first
	$(BIN)/python -m benchmarks.timing.gpu_suite

soak: $(READY)  ## 200 faults over small collections (docs/reliability.md): hours; a second run continues the first
	$(BIN)/python -m benchmarks.distributed.soak --faults 200

fuzz: $(READY)  ## 10 minutes of odd command lines, paths and files; each refused in one line or accepted
	$(BIN)/python -m tests.fuzz.run --seconds 600

coverage: $(READY)  ## fail unless tests/dqar runs 95% of the lines of dqar/
	$(BIN)/python -m pytest -q tests/dqar --cov=dqar --cov-report=term --cov-fail-under=95

clean:
	rm -rf $(VENV) runs .pytest_cache .ruff_cache .hypothesis build *.egg-info
