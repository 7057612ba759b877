"""Checkpoints of fits: tensors as safetensors, numbers as JSON."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from dqar.regular_file import read_regular, refuse_other_kinds
from dqar.validation import validate
from pipeline.storage.local_folder import LocalFolder

FOLDER = "_checkpoint"
"""Folder of the checkpoints within a policy folder; removed when the policy is written."""
FORMAT = 2
"""Version of the files; a checkpoint of another version is ignored."""
EVERY_S = 20.0
"""Least seconds between two checkpoints. Writing a checkpoint takes about 0.01 s."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointState:
    """Tensors and numbers that a checkpoint of a fit holds."""

    tensors: dict[str, Tensor]
    """Tensors by dotted name, such as ``now.log_floor``."""
    numbers: dict[str, Any]
    """Numbers and lists by name, as JSON values."""

    def part(self, head: str) -> dict[str, Tensor]:
        """Return the tensors whose names begin with ``head.``, by the rest of their names."""
        start = f"{head}."
        return {
            name.removeprefix(start): value
            for name, value in self.tensors.items()
            if name.startswith(start)
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointDocument:
    """JSON of a checkpoint."""

    format: int
    claim: dict[str, str]
    tensors: str
    """Name of the file of tensors."""
    numbers: dict[str, Any]


class Checkpoint:
    """Checkpoint of one fit of a training, in two files.

    The JSON file appears last, by an atomic rename, and names the file with the tensors.

    Args:
        folder: folder of all checkpoints of the training.
        stage: name of the fit: ``trial``, ``final`` or ``local``.
        claim: digests of the data and the configuration; :meth:`read` ignores a checkpoint with
            other digests.
    """

    def __init__(self, folder: Path, stage: str, claim: dict[str, str]) -> None:
        self.folder = folder
        self.stage = stage
        self.claim = claim
        self._last = time.monotonic()

    @property
    def is_due(self) -> bool:
        """True if :data:`EVERY_S` seconds have passed since the last checkpoint."""
        return time.monotonic() - self._last >= EVERY_S

    def write(self, kept: CheckpointState) -> None:
        """Write a checkpoint, which replaces the earlier checkpoint of the same fit."""
        folder = LocalFolder(path=self.folder)
        tensors = f"{self.stage}-{kept.numbers['step']:06d}.safetensors"
        contiguous = {name: value.contiguous() for name, value in kept.tensors.items()}
        folder.write(tensors, save(contiguous))
        of = {"format": FORMAT, "claim": self.claim}
        stored = of | {"tensors": tensors, "numbers": kept.numbers}
        folder.write(f"{self.stage}.json", json.dumps(stored).encode())
        for old in self.folder.glob(f"{self.stage}-*.safetensors"):
            if old.name != tensors:
                old.unlink(missing_ok=True)
        self._last = time.monotonic()

    def read(self) -> CheckpointState | None:
        """Read the checkpoint of an interrupted run; None if there is none with the same claim."""
        try:
            text = read_regular(self.folder / f"{self.stage}.json")
            stored = validate(json.loads(text), CheckpointDocument, is_finite=False)
            if (stored.format, stored.claim) != (FORMAT, self.claim):
                return None
            path = self.folder / Path(stored.tensors).name
            refuse_other_kinds(path)
            return CheckpointState(tensors=load_file(path), numbers=stored.numbers)
        except (OSError, ValueError, RecursionError, SafetensorError):
            return None


def clear(folder: Path) -> None:
    """Remove the folder of the checkpoints."""
    shutil.rmtree(folder, ignore_errors=True)
