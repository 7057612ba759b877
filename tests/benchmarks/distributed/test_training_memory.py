"""Synthetic traces read like collected ones, and the committed result has flat memory."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from benchmarks.distributed.synthetic_traces import LAYERS, STEPS, write_traces
from pipeline.traces import read_trajectories
from pipeline.train.train import TrainConfig
from tests.pipeline.gate_readers import check_propensities, load_reused_gates

RESULT = Path(__file__).parents[3] / "benchmarks/results/cpu/training-memory-schedule.json"


def test_synthetic_traces_read_like_collected_ones(tmp_path):
    written = write_traces(tmp_path / "traces", 30_000)
    uri = str(tmp_path / "traces")
    assert written["gate_rows"] == written["trajectories"] * STEPS * LAYERS >= 30_000
    gates = load_reused_gates(uri, TrainConfig().names, ("attn",))
    assert set(gates.weight.tolist()) == {float(LAYERS)}
    assert len(np.unique(read_trajectories(uri)["forecast_order"])) == 3
    # The recorded propensities are those with which the schedules were drawn.
    assert check_propensities(uri).metrics.get("p", 1.0) > 1e-3


def test_memory_stayed_flat():
    result = json.loads(RESULT.read_text())
    peaks = [size["peak_rss_mb"] for size in result["sizes"]]
    assert [size["gate_rows"] // 10**6 for size in result["sizes"]] == [1, 5, 50]
    assert abs(result["growth"] - (max(peaks) / min(peaks) - 1)) < 1e-3
    assert result["growth"] < 0.15
