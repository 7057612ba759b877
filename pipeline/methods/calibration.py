"""What an evaluation's worker is asked about a gate before anything is measured, and its answer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from dqar.control.per_sample import gate_for
from dqar.gates.base import Gate
from pipeline.models.noise import batches_of

Number = TypeVar("Number", int, float)


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationTask:
    """Calibration: run a gate whose parameter may differ by sample, on calibration noise."""

    name: str
    gate: Gate
    num_samples: int
    noise_ids: tuple[int, ...] = ()
    """Noise of each sample; the first ``num_samples`` by default."""
    forecast_order: int | tuple[int, ...] = 0
    """What a reuse shows, one for all or one a sample."""
    feedback: float | tuple[float, ...] = 0.0
    """Gain of the error feedback, likewise."""

    def parts(self, at_once: int) -> list[CalibrationTask]:
        """The same question in batches of at most so many samples."""
        return [self._part(rows) for rows in batches_of(self.num_samples, at_once)]

    def _part(self, rows: range) -> CalibrationTask:
        some = slice(rows.start, rows.stop)
        return replace(
            self,
            gate=gate_for(self.gate, some),
            num_samples=len(rows),
            noise_ids=(self.noise_ids or tuple(range(self.num_samples)))[some],
            forecast_order=_of(self.forecast_order, some),
            feedback=_of(self.feedback, some),
        )


def _of(setting: Number | tuple[Number, ...], some: slice) -> Number | tuple[Number, ...]:
    return setting[some] if isinstance(setting, tuple) else setting


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationResult:
    """What a probe saw."""

    reuse_ratio: Float[Tensor, " b"]
    """By sample."""
    share: Float[Tensor, "t g"]
    """Share of samples that reused, by step and gate."""
    error: Float[Tensor, " b"]
    """Relative L2 to the twin, by sample."""
    entropies: Float[Tensor, " n"]
    """Entropies that the gates saw."""
    snrs: list[float]
    """SNR by step."""

    @classmethod
    def joined(cls, parts: list[CalibrationResult]) -> CalibrationResult:
        """The answer to a probe from those to its parts, in their order."""
        weights = torch.tensor([len(part.error) for part in parts]).float()
        shares = torch.stack([part.share for part in parts])
        return cls(
            reuse_ratio=torch.cat([part.reuse_ratio for part in parts]),
            share=(shares * (weights / weights.sum())[:, None, None]).sum(dim=0),
            error=torch.cat([part.error for part in parts]),
            entropies=torch.cat([part.entropies for part in parts]),
            snrs=parts[0].snrs,
        )
