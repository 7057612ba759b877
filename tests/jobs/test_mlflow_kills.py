"""MLflow killed in mid-stage, with the functions of the benchmark that does it 25 times."""

import random

import pytest

from benchmarks.distributed.mlflow_kills import kill_in


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("stage", ["train", "sweep"])
def test_a_kill_of_mlflow_costs_nothing_but_the_logging(tmp_path, stage):
    (row,) = kill_in(stage, tmp_path, 1, random.Random(stage))
    assert row["is_good"], row
