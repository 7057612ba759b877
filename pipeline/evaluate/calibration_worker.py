"""The calibrating half of an evaluation's worker: questions answered on calibration noise."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dqar.control.controller import DQARController
from dqar.gates.base import AllOf
from dqar.records import GateRecord
from pipeline.evaluate.answer_cache import Found, Question
from pipeline.evaluate.config import EvaluateConfig
from pipeline.evaluate.model_runner import Runner
from pipeline.methods.calibration import CalibrationResult, CalibrationTask
from pipeline.methods.learning_to_cache import (
    RouterProbe,
    Routers,
    StockStep,
    by_sample,
    learn_routers,
    record_calls,
)
from pipeline.methods.site_mixing import patch_with_mixing
from pipeline.methods.smoothcache import CurveProbe, Curves, measure_curves


class Calibrator(Runner):
    """Loads a model once, then answers questions about it."""

    def __init__(self, config: EvaluateConfig, accelerator_type: str | None = None) -> None:
        super().__init__(config, accelerator_type)
        self._references: dict[int, Tensor] = {}

    def answer(self, question: Question) -> Found:
        """Answer one question."""
        if isinstance(question, CurveProbe):
            return self.measure_curves(question)
        if isinstance(question, RouterProbe):
            return self.train_routers(question)
        return self.probe(question)

    def measure_curves(self, probe: CurveProbe) -> Curves:
        """Watch the sites over stock runs on calibration noise."""
        found = [len(ids) * self._curves_of(ids, probe.largest_gap) for ids in probe.batches()]
        return Curves(error=torch.stack(found).sum(dim=0) / probe.num_samples)

    def _curves_of(self, ids: range, largest_gap: int) -> Tensor:
        noise, labels = self.draw("calibrate", list(ids))
        sites, cached = self.config.sites, self.config.cached
        with measure_curves(self.model.transformer, sites, cached, largest_gap) as watch:
            self.sample(noise, labels, self.config.steps, None)
        return watch.curves()

    def train_routers(self, probe: RouterProbe) -> Routers:
        """Learn routers from stock runs on calibration noise."""
        transformer, config = self.model.transformer, self.config
        runs = [run for ids in probe.batches() for run in self._stock_runs(ids)]
        guide = self.sampler(transformer, config.steps).guided
        with patch_with_mixing(transformer, config.sites, config.cached) as mixer:
            return learn_routers(transformer, mixer, runs, probe, guide)

    def _stock_runs(self, ids: range) -> list[list[StockStep]]:
        noise, labels = self.draw("calibrate", list(ids))
        with record_calls(self.model.transformer) as steps:
            self.sample(noise, labels, self.config.steps, None)
        return by_sample(steps, len(ids))

    def probe(self, probe: CalibrationTask) -> CalibrationResult:
        """Run a gate on calibration noise, a batch at a time."""
        return CalibrationResult.joined(
            [self._probe(part) for part in probe.parts(self.config.batch_size)]
        )

    def _probe(self, probe: CalibrationTask) -> CalibrationResult:
        noise, labels = self.draw("calibrate", list(probe.noise_ids))
        references = self._references_of(probe.noise_ids)
        records: list[GateRecord] = []
        controller = self._controller_of(probe, records.append)
        latents, _ = self.sample(noise, labels, self.config.steps, controller)
        reuse = torch.stack([record.decision.reuse.cpu() for record in records]).float()
        distance = (latents - references).flatten(1).norm(dim=1)
        entropies = torch.cat([record.inputs.entropy.flatten().cpu() for record in records[1:]])
        return CalibrationResult(
            reuse_ratio=reuse.mean(dim=(0, 1)),
            share=reuse.mean(dim=2),
            error=(distance / references.flatten(1).norm(dim=1)).float().cpu(),
            entropies=entropies[entropies > 0],
            snrs=[record.inputs.step.snr for record in records],
        )

    def _references_of(self, noise_ids: tuple[int, ...]) -> Tensor:
        """Sampled once each: probes share a few noises."""
        missing = [one for one in dict.fromkeys(noise_ids) if one not in self._references]
        if missing:
            noise, labels = self.draw("calibrate", missing)
            latents, _ = self.sample(noise, labels, self.config.steps, None)
            self._references.update(zip(missing, latents, strict=True))
        return torch.stack([self._references[one] for one in noise_ids])

    def _controller_of(self, probe: CalibrationTask, sink: Any) -> DQARController:
        order, gain = probe.forecast_order, probe.feedback
        orders = (order,) if isinstance(order, int) else order
        gains = gain if isinstance(gain, tuple) else (gain,)
        config = self.config.with_reuse_setting(max(orders), gains[0])
        controller = self.controller(config, AllOf(probe.gate), sink)
        if len(orders) > 1:
            controller.forecast_order = torch.tensor(orders)
        if len(gains) > 1:
            controller.feedback = torch.tensor(gains)
        return controller
