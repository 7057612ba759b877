"""Flags of the stages that log to MLflow. Apart from :mod:`pipeline.tracking`, whose import of
mlflow takes a second, so that ``--help`` does not."""

from __future__ import annotations

from dataclasses import dataclass

LONGEST_NAME = 200
"""Most characters of an experiment's name; databases of MLflow store 256."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrackingFlags:
    """MLflow store that the run is logged to."""

    tracking_uri: str | None = None
    """URI of the MLflow store; default: MLFLOW_TRACKING_URI, else sqlite in ./mlflow.db."""
    experiment: str = "dqar"
    """MLflow experiment."""
    resume_tracking: bool = False
    """Do no work: log what an earlier run into --out could not log because MLflow was away."""

    def __post_init__(self) -> None:
        name = self.experiment
        is_path = name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/")
        is_text = name.isprintable() and name == name.strip() != ""
        if is_path or not is_text or name == "." or len(name) > LONGEST_NAME:
            raise ValueError(
                f"experiment must be a name of 1 to {LONGEST_NAME} printable characters that is no "
                f"path: without a slash first and without '..'. Got {name[:80]!r}. Pass "
                "--experiment dqar."
            )
