"""MLflow: parameters, metrics, datasets, artifacts and the model registry.

This is the only package that imports mlflow. Every call goes through one client with explicit run
ids: there is no global active run, and workers log nothing. What MLflow cannot take while it is
away is kept in the output folder and logged later.
"""

from __future__ import annotations

from pipeline.tracking.connection import call_store
from pipeline.tracking.lineage import LINEAGE, read_lineage, write_lineage
from pipeline.tracking.pending import claim_of
from pipeline.tracking.registry import REGISTERED_POLICY
from pipeline.tracking.replay import settle_earlier
from pipeline.tracking.run import Run, flat
from pipeline.tracking.tracker import Tracker
from pipeline.tracking.uri import resolve_tracking_uri

__all__ = [
    "LINEAGE",
    "REGISTERED_POLICY",
    "Run",
    "Tracker",
    "call_store",
    "claim_of",
    "flat",
    "read_lineage",
    "resolve_tracking_uri",
    "settle_earlier",
    "write_lineage",
]
