"""Flags of a stage, and what it logs undisturbed."""

import shutil

import pytest

from pipeline.tracking import Tracker
from pipeline.tracking_flags import TrackingFlags
from tests.pipeline.tracking.stage_work import Flags, logged, work


@pytest.fixture
def flags(store_uri, tmp_path):
    return Flags(out=str(tmp_path / "out"), tracking=TrackingFlags(tracking_uri=store_uri))


@pytest.fixture
def expected(made_store, tmp_path):
    """Contents of the store after a run that nothing disturbed."""
    (tmp_path / "other").mkdir()
    shutil.copyfile(made_store, tmp_path / "other" / "mlflow.db")
    uri = f"sqlite:///{tmp_path}/other/mlflow.db"
    tracker = Tracker(uri, "dqar", tmp_path / "whole")
    work(tracker, tmp_path / "whole", tmp_path / "report.txt")
    tracker.settle()
    assert not (tmp_path / "whole" / "_tracking").exists()
    return logged(tracker)
