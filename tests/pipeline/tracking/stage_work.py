"""A stage of one call that logs a line of each kind, for tests of a store that fails."""

from dataclasses import dataclass, field

from pipeline.tracking_flags import TrackingFlags

TAGS = {"extra": "1"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Flags:
    """Flags of a stage."""

    out: str
    tracking: TrackingFlags
    steps: int = 4
    nested: TrackingFlags = field(default_factory=TrackingFlags)


def work(tracker, folder, scratch, fail=lambda: None):
    """A stage: a few lines of each kind, an output, a point; the failure comes after the begin."""
    parent = tracker.open_pipeline({}, "pipeline")
    with tracker.run("train", stage="train", parent=parent, tags=TAGS) as run:
        run.params({"steps": 4})
        fail()
        for step in range(3):
            run.metrics({"loss": 1.0 / (step + 1)}, step)
        with tracker.child("point", stage="point", parent=run) as point:
            point.params({"method": "x"})
            point.metrics({"error": 0.5})
        (folder / "plans").mkdir(parents=True)
        (folder / "plans" / "a.json").write_text("{}")
        (folder / "policy.json").write_text("{}")
        (folder / "policy.safetensors").write_bytes(b"weights")
        (folder / "_checkpoint").write_text("not for MLflow")
        run.dataset("traces", "abc", "file:///traces", "training")
        scratch.write_text("a report")
        run.artifact(scratch)
        scratch.unlink()
        run.output(folder, "results")
        run.model(folder, "policy")


def logged(tracker, run_id=None):
    """Contents of the stage's run and of its point in the store, without ids and times."""
    client = tracker.client
    found = client.search_runs([tracker.experiment_id], "tags.stage = 'train'")
    (run,) = [one for one in found if run_id in (None, one.info.run_id)]
    (point,) = client.search_runs(
        [tracker.experiment_id], f"tags.`mlflow.parentRunId` = '{run.info.run_id}'"
    )
    losses = client.get_metric_history(run.info.run_id, "loss")
    names = [one.path for one in client.list_artifacts(run.info.run_id)]
    below = [one.path for one in client.list_artifacts(run.info.run_id, "policy")]
    versions = client.search_model_versions(f"run_id = '{run.info.run_id}'")
    return {
        "status": (run.info.status, point.info.status),
        "params": (run.data.params, point.data.params),
        "losses": sorted((one.step, one.value) for one in losses),
        "point": point.data.metrics,
        "artifacts": (names, below),
        "datasets": [one.dataset.digest for one in run.inputs.dataset_inputs],
        "tags": (run.data.tags["stage"], run.data.tags["extra"]),
        "versions": len(versions),
    }
