"""Flags of jobs/doctor.py. Imports neither torch nor ray."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.flags.bounds import Range, require_name, require_within

RANGES = {"timeout_s": Range(least=0, most=86_400, usual=300, is_open=True)}
"""Values that the flags may have; a day is the longest wait for one answer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DoctorConfig:
    """Check a cluster before a long job: versions, Ray, storage, MLflow, accelerators, room.

    Prints a line for each check, FAIL with its fix. The exit code is 0 if all checks pass, 1 if one
    fails, 2 for a bad argument.
    """

    model: str | None = None
    """Model whose weights the driver and a worker must both find: digits, a diffusers folder, or a
    Hub id; default: no check of a model."""
    out: str | None = None
    """Folder or storage URI that a worker must be able to write to, such as s3://BUCKET/traces;
    default: no check of storage."""
    tracking_uri: str | None = None
    """MLflow server or store that a worker must reach; default: no check of MLflow."""
    accelerator_type: str | None = None
    """Accelerator type that a worker must get, by Ray's name, such as A100; default: no check of
    the type."""
    timeout_s: float = 300.0
    """Longest wait for one answer of a worker, in seconds; an autoscaler takes minutes to start a
    first node."""

    def __post_init__(self) -> None:
        require_within(self, RANGES)
        require_name(self, "accelerator_type")
