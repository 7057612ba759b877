"""Runs whose creation MLflow did not answer: the next start takes them, or ends them."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from pipeline.errors import InputError
from pipeline.tracking import Tracker
from pipeline.tracking.pending import OPEN_RUN
from tests.pipeline.tracking.stage_work import TAGS, logged, work

PERMANENT = 9
"""MLflow's number of an error that is not worth a second try, so that no test waits for one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Lost:
    """Creates runs, and loses the answers from a number on, as a server that dies with it."""

    create: Callable[..., Run]
    answered: int
    made: list[str] = field(default_factory=list)

    def __call__(self, *arguments, **named):
        self.made.append(self.create(*arguments, **named).info.run_id)
        if len(self.made) > self.answered:
            raise MlflowException("Connection refused", error_code=PERMANENT)
        return MlflowClient().get_run(self.made[-1])


def lose_a_creation(flags, monkeypatch, answered):
    """A start whose creation of the pipeline's run (0) or of the stage's (1) is not answered."""
    tracker = Tracker.of(flags)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracker.uri)
    lost = Lost(create=tracker.client.create_run, answered=answered)
    monkeypatch.setattr(tracker.client, "create_run", lost)
    with (
        pytest.raises(InputError, match="that answers"),
        tracker.run(
            "train", stage="train", parent=tracker.open_pipeline({}, "pipeline"), tags=TAGS
        ),
    ):
        raise AssertionError("no work may begin")
    assert (Path(flags.out) / OPEN_RUN).exists()
    return tracker, lost.made


@pytest.mark.parametrize("answered", [0, 1])
def test_a_run_whose_creation_was_not_answered_is_taken_by_the_same_command(
    flags, expected, tmp_path, monkeypatch, answered
):
    _, made = lose_a_creation(flags, monkeypatch, answered)
    tracker = Tracker.of(flags)
    work(tracker, tmp_path / "out", tmp_path / "report.txt")
    assert logged(tracker) == expected
    runs = {one.info.run_id for one in tracker.client.search_runs([tracker.experiment_id])}
    # The pipeline, the stage and its point, of which the first start made some.
    assert len(runs) == 3
    assert set(made) < runs
    assert not (tmp_path / "out" / OPEN_RUN).exists()


def test_a_run_whose_creation_was_not_answered_is_ended_by_another_command(flags, monkeypatch):
    tracker, (pipeline, stage) = lose_a_creation(flags, monkeypatch, 1)
    other = Tracker.of(replace(flags, steps=5))
    with other.run("train", stage="train", parent=other.open_pipeline({}, "pipeline")) as run:
        assert run.run_id != stage
        statuses = [tracker.client.get_run(one).info.status for one in (pipeline, stage)]
        assert statuses == ["FINISHED", "KILLED"]
