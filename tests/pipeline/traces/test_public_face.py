"""Functions of the package ``pipeline.traces`` return tables; importing it imports no Arrow."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import pipeline.traces
from pipeline.traces.multi_dataset import open_traces

ROOT = Path(__file__).parents[3]


def test_tables_are_those_of_the_handle(traces):
    opened = open_traces(traces)
    assert pipeline.traces.read_trajectories(traces).equals(opened.trajectories)
    assert pipeline.traces.read_gates(traces, ["step"]).equals(opened.read_gates(["step"]))
    streamed = pipeline.traces.stream_gates(traces, ["action"], only_reused=True)
    actions = {action for batch in streamed for action in batch["action"].to_pylist()}
    assert actions == {"reuse"}


@pytest.mark.parametrize("name", ["lease", "commit", "manifest", "shards", "trajectory_stream"])
def test_modules_without_tables_do_without_arrow(name):
    code = f"import sys, pipeline.traces.{name}; sys.exit('pyarrow' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 0
