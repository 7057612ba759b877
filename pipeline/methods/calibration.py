"""Calibration of a gate: reuse ratio and error of each sample, on calibration noise samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from dqar.control.controller import DQARController
from dqar.control.per_sample import gate_for
from dqar.gates.base import AllOf, Gate
from dqar.records import GateRecord
from pipeline.methods.task import Arrays, ModelSampler, Stored
from pipeline.models.noise import batches_of

Number = TypeVar("Number", int, float)
TENSORS = ("reuse_ratio", "share", "error", "entropies")
"""Fields of :class:`CalibrationResult` that are stored as arrays."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationResult:
    """Reuse ratio and error of a gate on calibration noise samples."""

    reuse_ratio: Float[Tensor, " b"]
    """Reuse ratio of each sample."""
    share: Float[Tensor, "t g"]
    """Share of the samples that reused, by sampling step and gate (site and layer)."""
    error: Float[Tensor, " b"]
    """Relative L2 distance of each sample to its reference sample."""
    entropies: Float[Tensor, " n"]
    """Attention entropies in nats that the gates received after the first step. Zeros, which stand
    for no measurement, are left out."""
    snrs: list[float]
    """Signal-to-noise ratio of each sampling step."""

    @classmethod
    def joined(cls, parts: list[CalibrationResult]) -> CalibrationResult:
        """Merge the results of a task's parts, in the order of their samples."""
        weights = torch.tensor([len(part.error) for part in parts]).float()
        shares = torch.stack([part.share for part in parts])
        return cls(
            reuse_ratio=torch.cat([part.reuse_ratio for part in parts]),
            share=(shares * (weights / weights.sum())[:, None, None]).sum(dim=0),
            error=torch.cat([part.error for part in parts]),
            entropies=torch.cat([part.entropies for part in parts]),
            snrs=parts[0].snrs,
        )

    def encode(self) -> tuple[Stored, Arrays]:
        """Return the result as JSON values and arrays."""
        return {"snrs": self.snrs}, {name: getattr(self, name).numpy() for name in TENSORS}


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationTask:
    """One run of a gate on calibration noise samples; the gate's parameter may differ by sample."""

    name: str
    """Name of the result, unique among the tasks of one call."""
    gate: Gate
    """Rule that decides where to reuse."""
    num_samples: int
    """Samples to run."""
    noise_ids: tuple[int, ...] = ()
    """Index of the noise sample that each sample starts from; 0, 1, 2, ... by default."""
    forecast_order: int | tuple[int, ...] = 0
    """Order of the forecasts that a reuse shows: one for all samples, or one for each sample."""
    feedback: float | tuple[float, ...] = 0.0
    """Gain of the error feedback: one for all samples, or one for each sample."""

    @property
    def trajectories(self) -> int:
        """Number of samples that are run through all sampling steps."""
        return self.num_samples

    @property
    def references(self) -> frozenset[int]:
        """Noise samples that the task compares with their reference samples."""
        return frozenset(self.noise_ids or range(self.num_samples))

    def parts(self, at_once: int) -> list[CalibrationTask]:
        """Split the task into tasks of at most ``at_once`` samples."""
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

    def run(self, sampler: ModelSampler) -> CalibrationResult:
        """Sample with the gate, batch by batch, and compare with the reference samples."""
        parts = self.parts(sampler.config.batch_size)
        return CalibrationResult.joined([part._run_batch(sampler) for part in parts])

    def _run_batch(self, sampler: ModelSampler) -> CalibrationResult:
        noise, labels = sampler.draw("calibrate", list(self.noise_ids))
        references = sampler.calibration_references(self.noise_ids)
        records: list[GateRecord] = []
        controller = self._controller(sampler, records.append)
        latents, _ = sampler.sample(noise, labels, sampler.config.steps, controller)
        return _result_of(records, latents, references)

    def _controller(
        self, sampler: ModelSampler, sink: Callable[[GateRecord], None]
    ) -> DQARController:
        order, gain = self.forecast_order, self.feedback
        orders = (order,) if isinstance(order, int) else order
        gains = gain if isinstance(gain, tuple) else (gain,)
        controller = sampler.controller(AllOf(self.gate), max(orders), gains[0], sink)
        if len(orders) > 1:
            controller.forecast_order = torch.tensor(orders)
        if len(gains) > 1:
            controller.feedback = torch.tensor(gains)
        return controller

    def decode(self, stored: Stored, arrays: Arrays) -> CalibrationResult:
        """Rebuild a result from its encoded form."""
        tensors = {name: torch.from_numpy(arrays[name]) for name in TENSORS}
        return CalibrationResult(**tensors, snrs=stored["snrs"])


def _of(setting: Number | tuple[Number, ...], some: slice) -> Number | tuple[Number, ...]:
    return setting[some] if isinstance(setting, tuple) else setting


def _result_of(records: list[GateRecord], latents: Tensor, references: Tensor) -> CalibrationResult:
    reuse = torch.stack([record.decision.reuse.cpu() for record in records]).float()
    distance = (latents - references).flatten(1).norm(dim=1)
    entropies = torch.cat([record.inputs.entropy.flatten().cpu() for record in records[1:]])
    return CalibrationResult(
        reuse_ratio=reuse.mean(dim=(0, 1)),
        share=reuse.mean(dim=2),
        error=(distance / references.flatten(1).norm(dim=1)).float().cpu(),
        entropies=entropies[entropies > 0],
        snrs=[record.inputs.step.known_snr for record in records],
    )
