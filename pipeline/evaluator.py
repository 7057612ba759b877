"""The worker of an evaluation: samples a method, compares with the twin, takes the time."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dqar.controller import DQARController
from dqar.gates import AllOf, Gate
from dqar.integration import DQARDiTWrapper, DQARSampler, SamplerConfig, calibrate_balance
from dqar.plan import StaticPlan
from dqar.records import GateRecord, PartKey
from pipeline.bound import measure_site_share, speed_bound
from pipeline.flops import gate_flops, saved_flops, transformer_flops
from pipeline.machine import device_name, peak_memory_mb
from pipeline.methods import Point
from pipeline.models import find_model, load_model, pick_device
from pipeline.noise import Purpose, draw_noise
from pipeline.quality import frechet_distance, measure_deltas
from pipeline.shipped import plan_of
from pipeline.tally import Tally
from pipeline.tasks import EvaluateConfig, Measured, Probe, Probed

TIMED_BATCHES = 1
"""Batches of a point that are timed, each right after its twin."""
GRID_IMAGES = 8


class Evaluator:
    """Loads a model once, then answers probes and measures points."""

    def __init__(self, config: EvaluateConfig) -> None:
        self.config = config
        self.device = pick_device()
        card = find_model(config.model)
        self.model = load_model(
            card, sampler=config.sampler, dtype=config.dtype, device=self.device
        )
        self.balance = self._calibrate()
        self.wrapper = DQARDiTWrapper(self.model.transformer, config.dqar_config())
        self.forward_flops = transformer_flops(self.model)
        self.twins: dict[tuple[Purpose, int], Tensor] = {}
        self.site_share: dict[str, float] = {}
        self.reference = self._reference_features()
        self._warm_up()

    def _warm_up(self) -> None:
        # The first forward pays for kernels and allocators; it must not be the twin's time.
        noise, labels = self._draw("calibrate", list(range(self.config.batch_size)))
        self._sample(noise, labels, 2, None)

    def do(self, task: Probe | Point) -> Probed | Measured:
        """Answer one task."""
        return self.probe(task) if isinstance(task, Probe) else self.measure(task)

    def probe(self, probe: Probe) -> Probed:
        """Run a gate on calibration noise."""
        noise_ids = probe.noise_ids or tuple(range(probe.num_samples))
        unique = sorted(set(noise_ids))
        noise, labels = self._draw("calibrate", unique)
        twins, _ = self._sample(noise, labels, self.config.steps, None)
        of_noise = torch.tensor([unique.index(noise_id) for noise_id in noise_ids])
        records: list[GateRecord] = []
        gate, order = AllOf(probe.gate), probe.forecast_order
        orders = (order,) if isinstance(order, int) else order
        config = self.config.at_order(max(orders))
        controller = self._controller(config, gate, records.append)
        if len(orders) > 1:
            controller.forecast_order = torch.tensor(orders)
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

    def measure(self, point: Point) -> Measured:
        """Sample a point on the evaluation noise, interleaved with its twin where timed."""
        tally = Tally()
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        for index, start in enumerate(range(0, self.config.num_samples, self.config.batch_size)):
            stop = min(start + self.config.batch_size, self.config.num_samples)
            self._measure_batch(point, range(start, stop), tally, timed=index < TIMED_BATCHES)
        return Measured(
            row=self._row(point, tally),
            images=_to_pixels(torch.cat(tally.images)),
            twin_images=_to_pixels(torch.cat(tally.twins)),
            plan=self._plan(point),
        )

    def _plan(self, point: Point) -> StaticPlan | None:
        # Its samples were the last, so that the timesteps are its own.
        card, scheduler = self.model.card, self.model.scheduler
        return plan_of(point, self.config.sites, card.num_layers, scheduler)

    def _measure_batch(self, point: Point, ids: range, tally: Tally, *, timed: bool) -> None:
        noise, labels = self._draw("evaluate", list(ids))
        key: tuple[Purpose, int] = ("evaluate", ids.start)
        if timed or key not in self.twins:
            twins, seconds = self._sample(noise, labels, self.config.steps, None)
            self.twins[key] = twins
            if timed:
                tally.twin_seconds.append(seconds)
        controller = None
        if point.gate is not None:
            config = self.config.at_order(point.forecast_order)
            controller = self._controller(config, point.gate)
        latents, seconds = self._sample(noise, labels, point.steps, controller)
        if timed:
            tally.seconds.append(seconds)
        tally.deltas.append(measure_deltas(self.model, latents, self.twins[key]))
        tally.images.append(self.model.decode(latents).cpu())
        tally.twins.append(self.model.decode(self.twins[key]).cpu())
        if controller is not None:
            tally.count(controller.summary())

    def _controller(self, config: EvaluateConfig, gate: Gate, sink: Any = None) -> DQARController:
        return DQARController(config.dqar_config(), gate=gate, sink=sink, balance=self.balance)

    def _calibrate(self) -> dict[PartKey, Tensor] | None:
        if not self.config.balanced:
            return None
        noise, labels = self._draw("calibrate", list(range(self.config.batch_size)))
        sampler = self._sampler(self.model.transformer, self.config.steps)
        return calibrate_balance(sampler, labels, latents=noise)

    def _sampler(self, model: Any, steps: int) -> DQARSampler:
        config = SamplerConfig(num_inference_steps=steps, guidance_scale=self.config.guidance_scale)
        return DQARSampler(model, self.model.scheduler, config)

    def _draw(self, purpose: Purpose, indices: list[int]) -> tuple[Tensor, Tensor]:
        card = self.model.card
        noise, labels = draw_noise(
            purpose, self.config.seed, indices, card.latent_shape, card.num_classes
        )
        dtype = self.model.transformer.dtype
        return noise.to(self.device, dtype), labels.to(self.device)

    def _sample(
        self, noise: Tensor, labels: Tensor, steps: int, controller: DQARController | None
    ) -> tuple[Tensor, float]:
        sampler = self._sampler(
            self.model.transformer if controller is None else self.wrapper, steps
        )
        self._settle()
        started = time.perf_counter()
        latents = sampler.sample(len(noise), labels, latents=noise, controller=controller)
        self._settle()
        return latents, time.perf_counter() - started

    def _settle(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def _reference_features(self) -> Tensor | None:
        if self.model.classifier is None:
            return None
        from pipeline.digits_data import load_digit_images

        return self.model.features(load_digit_images()[0].to(self.device))

    def _row(self, point: Point, tally: Tally) -> dict[str, Any]:
        config = self.config.at_order(point.forecast_order)
        error = torch.cat([delta.latent_rel_l2 for delta in tally.deltas]).double().cpu()
        half = 1.96 * float(error.std()) / len(error) ** 0.5 if len(error) > 1 else 0.0
        mean = float(error.mean())
        speedup = sum(tally.twin_seconds) / sum(tally.seconds)
        timed = min(config.num_samples, TIMED_BATCHES * config.batch_size)
        images = torch.cat(tally.images)
        return {
            "method": point.method,
            "operating_point": point.operating_point,
            "schedule": point.schedule and point.schedule.kind,
            **config.columns(),
            "reuse_ratio": tally.reuse_ratio,
            "flops_ratio": self._flops_ratio(point, tally),
            "speedup": speedup,
            "speedup_bound": self._bound(tally, len(images)),
            "latency_s": sum(tally.seconds) / timed,
            "latent_rel_l2": mean,
            "latent_rel_l2_ci95": [max(0.0, mean - half), mean + half],
            "psnr": float(torch.cat([delta.psnr for delta in tally.deltas]).mean()),
            "ssim": float(torch.cat([delta.ssim for delta in tally.deltas]).mean()),
            "fid": self._fid(images),
            "fid_features": None if self.reference is None else "digits-classifier-64",
            "label_accuracy": self._accuracy(images),
            "cache_mb": tally.cache_bytes / 2**20 if tally.gates else None,
            "peak_memory_mb": peak_memory_mb(self.device),
            "steps": point.steps,
            "device": device_name(self.device),
        }

    def _bound(self, tally: Tally, num_images: int) -> float | None:
        if not tally.gates:
            return None
        share = self._site_share(min(num_images, self.config.batch_size))
        return speed_bound(
            share, tally.skipped_by_site(self.config.sites, self.config.num_branches)
        )

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

    def _flops_ratio(self, point: Point, tally: Tally) -> float:
        config, card = self.config.at_order(point.forecast_order), self.model.card
        branches = config.num_branches
        a_step = self.forward_flops * branches * config.num_samples
        spent = a_step * point.steps - saved_flops(config, card, tally, branches)
        if point.gate is not None:
            spent += gate_flops(point.gate, config, card, tally, branches)
        return a_step * config.steps / spent

    def _fid(self, images: Tensor) -> float | None:
        features = self.model.features(images.to(self.device))
        if features is None or self.reference is None or len(features) < 2:
            return None
        return frechet_distance(features, self.reference)

    def _accuracy(self, images: Tensor) -> float | None:
        _, labels = self._draw("evaluate", list(range(self.config.num_samples)))
        return self.model.label_accuracy(images.to(self.device), labels)


def _to_pixels(images: Tensor) -> np.ndarray:
    first = images[:GRID_IMAGES].float().permute(0, 2, 3, 1)
    return ((first + 1.0) / 2.0).clamp(0, 1).numpy()
