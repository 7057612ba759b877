"""Worker of an evaluation: runs calibration tasks, measures and times operating points."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from dqar.sampler_names import plan_sampler
from dqar.schedules.static_plan import StaticPlan
from pipeline.cluster.hardware import device_name, peak_memory_mb
from pipeline.evaluate.accumulator import MetricAccumulator
from pipeline.evaluate.config import EvaluateConfig
from pipeline.evaluate.flops import gate_flops, saved_flops, transformer_flops
from pipeline.evaluate.model_runner import ModelRunner
from pipeline.evaluate.plan_export import plan_of
from pipeline.evaluate.result_rows import GRID_IMAGES, measured_of
from pipeline.evaluate.speed_bound import measure_site_share
from pipeline.evaluate.tasks import EvalTask, EvalTaskResult, PointResult, solve
from pipeline.methods.base import OperatingPoint
from pipeline.methods.task import R_co, Result, Task
from pipeline.models.image_metrics import FeatureSums, measure_deltas

TIMED_BATCHES = 1
"""Number of first batches of an operating point that are timed, each right after its reference
samples. These batches lie in one task, so that all times of a point come from one worker."""


class EvaluationWorker:
    """Loads a model once, then runs calibration tasks and measurement tasks.

    Args:
        config: settings of the evaluation.
        accelerator_type: type of accelerator that the device must have; None for any.

    Raises:
        InputError: if the device is not of the requested accelerator type.
    """

    def __init__(self, config: EvaluateConfig, accelerator_type: str | None = None) -> None:
        self.config = config
        self.runner = ModelRunner(config, accelerator_type)
        self.model, self.device = self.runner.model, self.runner.device
        self.forward_flops = transformer_flops(self.model)
        self.references: dict[int, Tensor] = {}
        """Final latents of the reference samples of each batch, by index of its first sample."""
        self.site_share: dict[str, float] = {}
        """Share of a forward pass's time that each site takes; empty until measured."""
        self.real_features = self._real_features()
        self._warm_up()

    def _warm_up(self) -> None:
        # The first forward pass loads kernels and allocates memory, which must not be timed.
        noise, labels = self.runner.draw("calibrate", list(range(self.config.batch_size)))
        self.runner.sample(noise, labels, 2, None)

    def do(self, task: EvalTask | Task[Result]) -> Result:
        """Run one task of the evaluation."""
        return self.measure_part(task) if isinstance(task, EvalTask) else self.calibrate(task)

    def calibrate(self, task: Task[R_co]) -> R_co:
        """Run one calibration task."""
        return task.run(self.runner)

    def measure(self, point: OperatingPoint) -> PointResult:
        """Measure all samples of an operating point."""
        tasks = self.config.solution_tasks()
        solutions = solve(tasks, lambda some: ((task, self.do(task)) for task in some))
        parts = [self.measure_part(part) for part in self.config.parts_of(point, solutions)]
        return measured_of(point, self.config, parts)

    def measure_part(self, part: EvalTask) -> EvalTaskResult:
        """Measure some samples of an operating point, batch by batch.

        A timed batch follows directly after the sampling of its reference samples.
        """
        metrics, batch = MetricAccumulator(), self.config.batch_size
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        for start in range(part.start, part.stop, batch):
            timed = start < TIMED_BATCHES * batch
            ids = range(start, min(start + batch, part.stop))
            latents = self._measure_batch(part.point, ids, metrics, timed)
            if part.solutions is not None:
                solutions = part.solutions[ids.start - part.start : ids.stop - part.start]
                metrics.judge_solutions(latents, solutions)
        self._count_flops(part, metrics)
        metrics.peak_memory_mb = peak_memory_mb(self.device)
        is_bounded = metrics.timed and metrics.gates
        return EvalTaskResult(
            metrics=metrics,
            device=device_name(self.device),
            site_share=self._site_share(min(len(part), batch)) if is_bounded else {},
            real_features=self.real_features,
            plan=self._plan(part.point),
        )

    def _plan(self, point: OperatingPoint) -> StaticPlan | None:
        # The operating point was sampled last, so that the scheduler holds its timesteps.
        info, scheduler = self.model.info, self.runner.scheduler(point.sampler)
        plan = plan_of(point, self.config.sites, info.num_layers, scheduler)
        named = plan_sampler(point.sampler or self.config.sampler)
        return None if plan is None else replace(plan, sampler=named)

    def _measure_batch(
        self, point: OperatingPoint, ids: range, metrics: MetricAccumulator, timed: bool
    ) -> Tensor:
        noise, labels = self.runner.draw("evaluate", list(ids))
        reference_seconds = 0.0
        if timed or ids.start not in self.references:
            self.references[ids.start], reference_seconds = self.runner.sample(
                noise, labels, self.config.steps, None
            )
        controller = None
        if point.gate is not None:
            controller = self.runner.controller(point.gate, point.forecast_order, point.feedback)
        latents, seconds = self.runner.sample(noise, labels, point.steps, controller, point.sampler)
        if timed:
            metrics.timed += len(ids)
            metrics.seconds += seconds
            metrics.reference_seconds += reference_seconds
        if controller is not None:
            metrics.count(controller.summary())
        self._judge(ids, labels, latents, metrics)
        return latents

    def _judge(
        self, ids: range, labels: Tensor, latents: Tensor, metrics: MetricAccumulator
    ) -> None:
        references = self.references[ids.start]
        metrics.judge(measure_deltas(self.model, latents, references))
        images = self.model.decode(latents)
        accuracy, features = self.model.label_accuracy(images, labels), self.model.features(images)
        if accuracy is not None and features is not None:
            metrics.matches = (metrics.matches or 0) + round(accuracy * len(ids))
            sums = FeatureSums.of(features)
            metrics.features = sums if metrics.features is None else metrics.features + sums
        if shown := max(0, GRID_IMAGES - ids.start):
            metrics.images += list(_to_pixels(images[:shown]))
            metrics.references += list(_to_pixels(self.model.decode(references)[:shown]))

    def _real_features(self) -> FeatureSums | None:
        if self.model.classifier is None:
            return None
        from pipeline.models.digits_data import load_digit_images

        features = self.model.features(load_digit_images()[0].to(self.device))
        return None if features is None else FeatureSums.of(features)

    def _count_flops(self, part: EvalTask, metrics: MetricAccumulator) -> None:
        point, info = part.point, self.model.info
        config = self.config.with_reuse_setting(point.forecast_order, point.feedback)
        branches = config.num_branches
        a_step = self.forward_flops * branches * len(part)
        metrics.reference_flops = a_step * config.steps
        metrics.flops = a_step * point.steps - saved_flops(config, info, metrics, branches)
        if point.gate is not None:
            metrics.flops += gate_flops(point.gate, config, info, metrics, branches)

    def _site_share(self, batch_size: int) -> dict[str, float]:
        if not self.site_share:
            noise, labels = self.runner.draw("calibrate", list(range(batch_size)))
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
