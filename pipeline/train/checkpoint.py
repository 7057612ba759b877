"""Where a fit stands, on disk: safetensors for the tensors, JSON for the rest, of one claim."""

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

from pipeline.storage.local_folder import LocalFolder

FOLDER = "_checkpoint"
"""Folder of the checkpoints within a policy folder; gone when the policy is written."""
FORMAT = 2
"""Of what is kept; a checkpoint of another is none."""
EVERY_S = 20.0
"""Seconds between checkpoints: writing one takes about a hundredth of a second."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointState:
    """What was kept."""

    tensors: dict[str, Tensor]
    """By name; the parts of a name are joined with dots."""
    numbers: dict[str, Any]
    """As JSON can hold them."""

    def part(self, head: str) -> dict[str, Tensor]:
        """Tensors whose names begin with ``head.``, by the rest of their names."""
        start = f"{head}."
        return {
            name.removeprefix(start): value
            for name, value in self.tensors.items()
            if name.startswith(start)
        }


class Checkpoint:
    """The checkpoint of one stage of a training. Two files: the JSON appears last, by an atomic
    rename, and names the tensors that belong to it."""

    def __init__(self, folder: Path, stage: str, claim: dict[str, str]) -> None:
        self.folder = folder
        self.stage = stage
        self.claim = claim
        """What the fit is of; a checkpoint of anything else is none."""
        self._last = time.monotonic()

    @property
    def is_due(self) -> bool:
        """Whether the last checkpoint is old enough for another."""
        return time.monotonic() - self._last >= EVERY_S

    def keep(self, kept: CheckpointState) -> None:
        """Write what there is, in place of the stage's earlier checkpoint."""
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

    def take_up(self) -> CheckpointState | None:
        """What an earlier run of the same claim left; None if nothing that can be read."""
        try:
            stored = json.loads((self.folder / f"{self.stage}.json").read_text())
            if (stored["format"], stored["claim"]) != (FORMAT, self.claim):
                return None
            name = Path(stored["tensors"]).name
            return CheckpointState(tensors=load_file(self.folder / name), numbers=stored["numbers"])
        except (OSError, ValueError, KeyError, TypeError, SafetensorError):
            return None


def clear(folder: Path) -> None:
    """Remove what is left of checkpoints."""
    shutil.rmtree(folder, ignore_errors=True)
