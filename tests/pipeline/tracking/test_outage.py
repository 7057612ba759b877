"""A store that fails in mid-run: the output is whole, what was to be logged is kept and logged
later, once. The failure here is an experiment that somebody deletes, and restores."""

import json

import pytest

from pipeline.errors import IncompleteError, InputError
from pipeline.storage.object_store import open_storage
from pipeline.storage.output_folder import published
from pipeline.tracking import Tracker, claim_of, settle_earlier
from pipeline.tracking.pending import FILES, OPEN_RUN, PENDING
from pipeline.tracking_flags import TrackingFlags
from tests.pipeline.tracking.stage_work import Flags, logged, work


def resuming(flags, **changes):
    tracking = TrackingFlags(tracking_uri=flags.tracking.tracking_uri, resume_tracking=True)
    return Flags(**{"out": flags.out, "steps": flags.steps, "tracking": tracking, **changes})


def test_what_was_kept_is_logged_by_the_next_start_and_equals_an_undisturbed_run(
    flags, expected, tmp_path, capsys
):
    tracker, out = Tracker.of(flags), tmp_path / "out"

    def delete():
        tracker.client.delete_experiment(tracker.experiment_id)

    work(tracker, out, tmp_path / "report.txt", delete)
    with pytest.raises(IncompleteError, match="is whole, but not logged to MLflow") as ended:
        tracker.settle()
    assert "\n" not in str(ended.value)
    assert (out / "policy.json").exists()
    assert (out / PENDING).exists()
    assert not (out / OPEN_RUN).exists()
    # A second failure keeps everything.
    with pytest.raises(InputError, match="must not be a deleted"):
        settle_earlier(flags, "policy.json")
    assert (out / PENDING).exists()
    tracker.client.restore_experiment(tracker.experiment_id)
    capsys.readouterr()
    assert settle_earlier(flags, "policy.json")
    assert "is logged to MLflow; its work was done before" in capsys.readouterr().out
    assert logged(tracker) == expected
    assert not (out / "_tracking").exists()
    assert not settle_earlier(flags, "policy.json")
    assert settle_earlier(resuming(flags), "policy.json")


def test_a_failure_that_has_passed_by_the_end_costs_nothing(flags, expected, tmp_path, capsys):
    tracker = Tracker.of(flags)

    def delete_for_a_moment():
        tracker.client.delete_experiment(tracker.experiment_id)
        tracker._fail(RuntimeError("gone"))
        tracker.client.restore_experiment(tracker.experiment_id)

    work(tracker, tmp_path / "out", tmp_path / "report.txt", delete_for_a_moment)
    tracker.settle()
    assert "MLflow was away and is back" in capsys.readouterr().out
    assert logged(tracker) == expected


def pend(flags, tmp_path):
    """Leave records that are pending; return the tracker."""
    tracker = Tracker.of(flags)
    with published(flags.out, "policy.json") as folder:
        work(
            tracker,
            folder,
            tmp_path / "report.txt",
            lambda: tracker.client.delete_experiment(tracker.experiment_id),
        )
    with pytest.raises(IncompleteError):
        tracker.settle()
    tracker.client.restore_experiment(tracker.experiment_id)
    return tracker


def test_an_object_store_keeps_what_is_pending(store_uri, s3, expected, tmp_path):
    tracking = TrackingFlags(tracking_uri=store_uri)
    flags = Flags(out=f"{s3}/policy", tracking=tracking)
    tracker, storage = pend(flags, tmp_path), open_storage(flags.out)
    assert storage.read("policy.json") == b"{}"
    assert storage.size(PENDING)
    assert settle_earlier(flags, "policy.json")
    assert logged(tracker) == expected
    assert storage.size(PENDING) is None
    assert storage.sizes(FILES) == {}


def test_records_may_be_applied_twice(flags, expected, tmp_path):
    """A replay that is killed before it deletes the file is repeated from the start."""
    tracker = pend(flags, tmp_path)
    kept = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert settle_earlier(flags, "policy.json")
    for path, contents in kept.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(contents)
    assert settle_earlier(flags, "policy.json")
    assert logged(tracker) == expected


def test_another_command_is_refused_and_the_flag_logs_all_the_same(flags, tmp_path):
    pend(flags, tmp_path)
    other = Flags(out=flags.out, tracking=flags.tracking, steps=5)
    assert claim_of(other) != claim_of(flags)
    with pytest.raises(InputError, match="--out must not hold the output of other settings"):
        settle_earlier(other, "policy.json")
    assert settle_earlier(resuming(other), "policy.json")


def test_another_store_is_refused(flags, made_store, tmp_path):
    pend(flags, tmp_path)
    tracking = TrackingFlags(tracking_uri=f"sqlite:///{made_store}", resume_tracking=True)
    with pytest.raises(InputError, match="must be the MLflow store in which the run began"):
        settle_earlier(resuming(flags, tracking=tracking), "policy.json")


def test_the_flag_without_an_output_is_refused(flags):
    with pytest.raises(InputError, match=r"which has no policy.json"):
        settle_earlier(resuming(flags), "policy.json")


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{}\n",
        b"[]",
        b"\xff\n",
        b'{"operation": "EndRun"}',
        lambda data: data + b'{"operation": "Shell", "run": "x"}\n',
        lambda data: data.replace(b"plans/a.json", b"../a.json"),
        lambda data: data.replace(b'"step": 0', b'"step": "0"'),
        lambda data: data.replace(b'"format": 1', b'"format": 2'),
    ],
)
def test_damaged_records_are_refused_in_one_line(flags, tmp_path, damage):
    storage = open_storage(flags.out)
    lines = [
        {"format": 1, "claim": "", "run": "r", "experiment": "e", "ids": {}, "files": []},
        {"operation": "LogMetrics", "run": "r", "values": {"a": 1.0}, "step": 0},
        {"operation": "LogArtifact", "run": "r", "key": "plans/a.json", "folder": None},
    ]
    data = "".join(f"{json.dumps(line)}\n" for line in lines).encode()
    storage.write(PENDING, damage if isinstance(damage, bytes) else damage(data))
    with pytest.raises(InputError, match=r"must hold the MLflow records of an earlier run") as said:
        settle_earlier(flags, "policy.json")
    assert "\n" not in str(said.value)


def test_the_run_of_a_driver_that_was_killed_ends_at_the_next_start(flags):
    def start():
        tracker = Tracker.of(flags)
        run = tracker.run("train", stage="train", parent=tracker.open_pipeline({}, "pipeline"))
        return tracker, run

    tracker, run = start()
    dead = run.__enter__().run_id
    assert tracker.client.get_run(dead).info.status == "RUNNING"
    tracker, again = start()
    with again:
        assert tracker.client.get_run(dead).info.status == "KILLED"


def test_secrets_do_not_reach_the_store(flags, monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "canary-4711")
    tracker = Tracker.of(flags)
    secret = "http://me:canary-4711@host"
    with tracker.run(f"x {secret}", stage="sample", parent="p", tags={"a": secret}) as run:
        run.params({"command": f"--tracking-uri {secret}"})
        run.tags({"b": secret})
        run.dataset("traces", "d", secret, "training")
    stored = (tmp_path / "mlflow.db").read_bytes()
    assert b"canary" not in stored
    assert b"//...@host" in stored
