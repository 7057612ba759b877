"""A run of a stage or of one of its points: what it logs becomes records."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.tracking.model_folder import write_model_folder
from pipeline.tracking.operations import (
    LogArtifact,
    LogDataset,
    LogMetrics,
    LogParams,
    Operation,
    RegisterPolicy,
    SetTags,
)
from pipeline.tracking.pending import FILES

Log = Callable[[Operation], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """An open MLflow run. Nothing here raises because MLflow is away."""

    key: str
    """Key of the run, which children and records name."""
    run_id: str
    """Id of the run in MLflow; the key while MLflow has not created it."""
    log: Log
    """Applies a record, or keeps it."""
    keep: Callable[[str, Path], None]
    """Takes a key and the file that records name by it."""

    def params(self, values: dict[str, Any]) -> None:
        """Log parameters, which MLflow never lets change."""
        texts = {name: str(value) for name, value in values.items()}
        self.log(LogParams(run=self.key, values=texts))

    def metrics(self, values: dict[str, int | float | None], step: int = 0) -> None:
        """Log finite metrics; None, NaN and infinities are left out."""
        finite = {
            name: float(value)
            for name, value in values.items()
            if value is not None and math.isfinite(value)
        }
        self.log(LogMetrics(run=self.key, values=finite, step=step))

    def tags(self, values: dict[str, str]) -> None:
        """Set tags."""
        self.log(SetTags(run=self.key, values=values))

    def artifact(self, path: Path) -> None:
        """Upload a file that is no part of the output folder, under its name."""
        key = f"{FILES}/{path.name}"
        self.keep(key, path)
        self.log(LogArtifact(run=self.key, key=key, folder=None))

    def output(self, folder: Path, into: str) -> None:
        """Upload the output folder's files, without those whose names begin with an underscore.

        Args:
            folder: place of the output folder on this machine.
            into: artifact folder.
        """
        for path in sorted(folder.rglob("*")):
            parts = path.relative_to(folder).parts
            if path.is_file() and not parts[0].startswith("_"):
                key = "/".join(parts)
                self.keep(key, path)
                self.log(LogArtifact(run=self.key, key=key, folder="/".join((into, *parts[:-1]))))

    def files(self, folder: Path, into: str | None) -> None:
        """Upload the files of a temporary folder.

        Args:
            folder: folder that is no part of the output folder.
            into: artifact folder; None for the top.
        """
        for path in sorted(one for one in folder.rglob("*") if one.is_file()):
            *within, name = path.relative_to(folder).parts
            place = "/".join([*filter(None, [into]), *within])
            key = "/".join([FILES, self.key, *filter(None, [place]), name])
            self.keep(key, path)
            self.log(LogArtifact(run=self.key, key=key, folder=place or None))

    def model(self, policy: Path, into: str) -> None:
        """Upload a policy folder as an MLflow model, and register it as the newest policy; the
        run's tag ``policy_version`` gets the version.

        Args:
            policy: policy folder.
            into: artifact folder.
        """
        with tempfile.TemporaryDirectory(prefix="dqar-") as scratch:
            write_model_folder(policy, Path(scratch) / "model")
            self.files(Path(scratch) / "model", into)
        self.log(RegisterPolicy(run=self.key, folder=into))

    def dataset(self, name: str, digest: str, uri: str, context: str) -> None:
        """Log a dataset as an input of the run, identified by a digest of its contents."""
        self.log(LogDataset(run=self.key, name=name, digest=digest, uri=uri, context=context))


def flat(fields: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested fields to dotted names. Example: ``{"a": {"b": 1}}`` gives ``{"a.b": 1}``."""
    found: dict[str, Any] = {}
    for name, value in fields.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found
