"""The worker of an evaluation: samples a method, compares with the twin, takes the time."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dqar.controller import DQARController
from dqar.gates import AllOf, Gate
from dqar.integration import (
    DQARDiTWrapper,
    DQARDPMSolverSampler,
    DQARSampler,
    SamplerConfig,
    calibrate_balance,
)
from dqar.plan import StaticPlan
from dqar.records import GateRecord, PartKey
from pipeline.bound import measure_site_share
from pipeline.curves import CurveProbe, Curves, watched
from pipeline.flops import gate_flops, saved_flops, transformer_flops
from pipeline.machine import device_name, peak_memory_mb, refuse_other_device
from pipeline.methods import Point
from pipeline.models import Sampler, find_model, load_model, pick_device
from pipeline.noise import Purpose, draw_noise
from pipeline.point_rows import GRID_IMAGES, measured_of
from pipeline.quality import FeatureSums, measure_deltas
from pipeline.router import (
    RouterProbe,
    Routers,
    StockStep,
    by_sample,
    learn_routers,
    mixing,
    recorded,
)
from pipeline.shipped import plan_of
from pipeline.tally import Tally
from pipeline.tasks import EvaluateConfig, Measured, Part, Probe, Probed, Tallied

TIMED_BATCHES = 1
"""Batches of a point that are timed, each right after its twin: the first, so that one worker takes
all of a point's times, however many share its samples."""


class Evaluator:
    """Loads a model once, then answers probes and measures parts of points.

    Raises:
        Refusal: if the device is not of the accelerator type asked for.
    """

    def __init__(self, config: EvaluateConfig, accelerator_type: str | None = None) -> None:
        self.config = config
        self.device = pick_device()
        refuse_other_device(device_name(self.device), accelerator_type)
        card = find_model(config.model)
        self.model = load_model(
            card, sampler=config.sampler, dtype=config.dtype, device=self.device
        )
        self.balance = self._calibrate()
        self.wrapper = DQARDiTWrapper(self.model.transformer, config.dqar_config())
        self.forward_flops = transformer_flops(self.model)
        self.twins: dict[tuple[Purpose, int], Tensor] = {}
        self.site_share: dict[str, float] = {}
        self.reference = self._reference()
        self._warm_up()

    def _warm_up(self) -> None:
        # The first forward pays for kernels and allocators; it must not be the twin's time.
        noise, labels = self._draw("calibrate", list(range(self.config.batch_size)))
        self._sample(noise, labels, 2, None)

    def do(
        self, task: Probe | CurveProbe | RouterProbe | Part
    ) -> Probed | Curves | Routers | Tallied:
        """Answer one task."""
        if isinstance(task, CurveProbe):
            return self.measure_curves(task)
        if isinstance(task, RouterProbe):
            return self.train_routers(task)
        return self.probe(task) if isinstance(task, Probe) else self.measure_part(task)

    def measure_curves(self, probe: CurveProbe) -> Curves:
        """Watch the sites over stock runs on calibration noise."""
        found = [len(ids) * self._curves_of(ids, probe.largest_gap) for ids in probe.batches()]
        return Curves(error=torch.stack(found).sum(dim=0) / probe.num_samples)

    def _curves_of(self, ids: range, largest_gap: int) -> Tensor:
        noise, labels = self._draw("calibrate", list(ids))
        sites, cached = self.config.sites, self.config.cached
        with watched(self.model.transformer, sites, cached, largest_gap) as watch:
            self._sample(noise, labels, self.config.steps, None)
        return watch.curves()

    def train_routers(self, probe: RouterProbe) -> Routers:
        """Learn routers from stock runs on calibration noise."""
        transformer, config = self.model.transformer, self.config
        runs = [run for ids in probe.batches() for run in self._stock_runs(ids)]
        guide = self._sampler(transformer, config.steps).guided
        with mixing(transformer, config.sites, config.cached) as mixer:
            return learn_routers(transformer, mixer, runs, probe, guide)

    def _stock_runs(self, ids: range) -> list[list[StockStep]]:
        noise, labels = self._draw("calibrate", list(ids))
        with recorded(self.model.transformer) as steps:
            self._sample(noise, labels, self.config.steps, None)
        return by_sample(steps, len(ids))

    def probe(self, probe: Probe) -> Probed:
        """Run a gate on calibration noise."""
        noise_ids = probe.noise_ids or tuple(range(probe.num_samples))
        unique = sorted(set(noise_ids))
        noise, labels = self._draw("calibrate", unique)
        twins, _ = self._sample(noise, labels, self.config.steps, None)
        of_noise = torch.tensor([unique.index(noise_id) for noise_id in noise_ids])
        records: list[GateRecord] = []
        controller = self._controller_of(probe, records.append)
        latents, _ = self._sample(noise[of_noise], labels[of_noise], self.config.steps, controller)
        reuse = torch.stack([record.verdict.reuse.cpu() for record in records]).float()
        distance = (latents - twins[of_noise]).flatten(1).norm(dim=1)
        entropies = torch.cat([record.signal.entropy.flatten().cpu() for record in records[1:]])
        return Probed(
            reuse_ratio=reuse.mean(dim=(0, 1)),
            share=reuse.mean(dim=2),
            error=(distance / twins[of_noise].flatten(1).norm(dim=1)).float().cpu(),
            entropies=entropies[entropies > 0],
            snrs=[record.signal.step.snr for record in records],
        )

    def _controller_of(self, probe: Probe, sink: Any) -> DQARController:
        order, gain = probe.forecast_order, probe.feedback
        orders = (order,) if isinstance(order, int) else order
        gains = gain if isinstance(gain, tuple) else (gain,)
        config = self.config.showing(max(orders), gains[0])
        controller = self._controller(config, AllOf(probe.gate), sink)
        if len(orders) > 1:
            controller.forecast_order = torch.tensor(orders)
        if len(gains) > 1:
            controller.feedback = torch.tensor(gains)
        return controller

    def measure(self, point: Point) -> Measured:
        """Measure all samples of a point."""
        parts = [self.measure_part(part) for part in self.config.parts_of(point)]
        return measured_of(point, self.config, parts)

    def measure_part(self, part: Part) -> Tallied:
        """Sample some of a point's evaluation noise, interleaved with its twin where timed."""
        tally, batch = Tally(), self.config.batch_size
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        for start in range(part.start, part.stop, batch):
            timed = start < TIMED_BATCHES * batch
            self._measure_batch(
                part.point, range(start, min(start + batch, part.stop)), tally, timed
            )
        self._count_flops(part, tally)
        tally.peak_memory_mb = peak_memory_mb(self.device)
        is_bounded = tally.timed and tally.gates
        return Tallied(
            tally=tally,
            device=device_name(self.device),
            site_share=self._site_share(min(len(part), batch)) if is_bounded else {},
            reference=self.reference,
            plan=self._plan(part.point),
        )

    def _plan(self, point: Point) -> StaticPlan | None:
        # Its samples were the last, so that the timesteps are its own.
        card, scheduler = self.model.card, self.model.scheduler
        return plan_of(point, self.config.sites, card.num_layers, scheduler)

    def _measure_batch(self, point: Point, ids: range, tally: Tally, timed: bool) -> None:
        noise, labels = self._draw("evaluate", list(ids))
        key: tuple[Purpose, int] = ("evaluate", ids.start)
        twin_seconds = 0.0
        if timed or key not in self.twins:
            self.twins[key], twin_seconds = self._sample(noise, labels, self.config.steps, None)
        controller = None
        if point.gate is not None:
            config = self.config.showing(point.forecast_order, point.feedback)
            controller = self._controller(config, point.gate)
        latents, seconds = self._sample(noise, labels, point.steps, controller, point.sampler)
        if timed:
            tally.timed += len(ids)
            tally.seconds += seconds
            tally.twin_seconds += twin_seconds
        if controller is not None:
            tally.count(controller.summary())
        self._judge(ids, labels, latents, tally)

    def _judge(self, ids: range, labels: Tensor, latents: Tensor, tally: Tally) -> None:
        twins = self.twins["evaluate", ids.start]
        tally.judge(measure_deltas(self.model, latents, twins))
        images = self.model.decode(latents)
        accuracy, features = self.model.label_accuracy(images, labels), self.model.features(images)
        if accuracy is not None and features is not None:
            tally.matches = (tally.matches or 0) + round(accuracy * len(ids))
            sums = FeatureSums.of(features)
            tally.features = sums if tally.features is None else tally.features + sums
        if shown := max(0, GRID_IMAGES - ids.start):
            tally.images += list(_to_pixels(images[:shown]))
            tally.twins += list(_to_pixels(self.model.decode(twins)[:shown]))

    def _controller(self, config: EvaluateConfig, gate: Gate, sink: Any = None) -> DQARController:
        return DQARController(config.dqar_config(), gate=gate, sink=sink, balance=self.balance)

    def _calibrate(self) -> dict[PartKey, Tensor] | None:
        if not self.config.balanced:
            return None
        noise, labels = self._draw("calibrate", list(range(self.config.batch_size)))
        sampler = self._sampler(self.model.transformer, self.config.steps)
        return calibrate_balance(sampler, labels, latents=noise)

    def _sampler(self, model: Any, steps: int, other: Sampler | None = None) -> DQARSampler:
        config = SamplerConfig(num_inference_steps=steps, guidance_scale=self.config.guidance_scale)
        kind = DQARDPMSolverSampler if other == "dpm" else DQARSampler
        return kind(model, self.model.scheduler, config)

    def _draw(self, purpose: Purpose, indices: list[int]) -> tuple[Tensor, Tensor]:
        card = self.model.card
        noise, labels = draw_noise(
            purpose, self.config.seed, indices, card.latent_shape, card.num_classes
        )
        dtype = self.model.transformer.dtype
        return noise.to(self.device, dtype), labels.to(self.device)

    def _sample(
        self,
        noise: Tensor,
        labels: Tensor,
        steps: int,
        controller: DQARController | None,
        other: Sampler | None = None,
    ) -> tuple[Tensor, float]:
        model = self.model.transformer if controller is None else self.wrapper
        sampler = self._sampler(model, steps, other)
        self._settle()
        started = time.perf_counter()
        latents = sampler.sample(len(noise), labels, latents=noise, controller=controller)
        self._settle()
        return latents, time.perf_counter() - started

    def _settle(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def _reference(self) -> FeatureSums | None:
        if self.model.classifier is None:
            return None
        from pipeline.digits_data import load_digit_images

        features = self.model.features(load_digit_images()[0].to(self.device))
        return None if features is None else FeatureSums.of(features)

    def _count_flops(self, part: Part, tally: Tally) -> None:
        point, card = part.point, self.model.card
        config = self.config.showing(point.forecast_order, point.feedback)
        branches = config.num_branches
        a_step = self.forward_flops * branches * len(part)
        tally.twin_flops = a_step * config.steps
        tally.flops = a_step * point.steps - saved_flops(config, card, tally, branches)
        if point.gate is not None:
            tally.flops += gate_flops(point.gate, config, card, tally, branches)

    def _site_share(self, batch_size: int) -> dict[str, float]:
        if not self.site_share:
            noise, labels = self._draw("calibrate", list(range(batch_size)))
            rows = torch.cat([noise] * 2), torch.cat([labels] * 2)
            steps = torch.zeros(len(rows[0]), dtype=torch.long, device=noise.device)

            @torch.no_grad()
            def forward() -> None:
                self.model.transformer(rows[0], timestep=steps, class_labels=rows[1])

            self.site_share = measure_site_share(
                self.model.transformer, self.config.sites, forward, self.config.cached
            )
        return self.site_share


def _to_pixels(images: Tensor) -> np.ndarray:
    return ((images.float().cpu().permute(0, 2, 3, 1) + 1.0) / 2.0).clamp(0, 1).numpy()
