"""Flags of the stages that log to MLflow. Apart from :mod:`pipeline.tracking`, whose import of
mlflow takes a second, so that ``--help`` does not."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class TrackingFlags:
    """MLflow store that the run is logged to."""

    tracking_uri: str | None = None
    """URI of the MLflow store; default: MLFLOW_TRACKING_URI, else sqlite in ./mlflow.db."""
    experiment: str = "dqar"
    """MLflow experiment."""
