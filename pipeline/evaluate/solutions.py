"""Solutions of the evaluation's noise samples by many steps, sampled once for the evaluation.

The reference samples have the evaluation's sampler and steps, and so its discretization error too.
A solution has many steps, so that its distance says how well a method solves the model's equation,
and methods over different samplers and numbers of steps can be compared.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.evaluate.answer_cache import Work
from pipeline.evaluate.config import EvaluateConfig
from pipeline.evaluate.model_runner import ModelRunner
from pipeline.methods.task import Arrays, Stored
from pipeline.progress import Progress
from pipeline.statistics import normal_interval


@dataclass(frozen=True, kw_only=True, slots=True)
class Solutions:
    """Final latents of some evaluation samples, solved by many steps."""

    latents: Tensor
    """Final latents in the order of the samples, in fp32 on the CPU."""

    def encode(self) -> tuple[Stored, Arrays]:
        """Return the result as JSON values and arrays."""
        return {}, {"latents": self.latents.numpy()}


@dataclass(frozen=True, kw_only=True, slots=True)
class SolutionTask:
    """Solution of some evaluation samples by many steps, without reuse."""

    start: int
    """Index of the first sample."""
    stop: int
    """Index after the last sample."""

    @property
    def name(self) -> str:
        """Name of the result."""
        return f"solution-{self.start}"

    @property
    def trajectories(self) -> int:
        """0, as for reference samples."""
        return 0

    def run(self, runner: ModelRunner) -> Solutions:
        """Solve the samples on a worker."""
        ids = list(range(self.start, self.stop))
        return Solutions(latents=runner.solutions("evaluate", ids).float().cpu())

    def decode(self, stored: Stored, arrays: Arrays) -> Solutions:
        """Rebuild a result from its encoded form.

        Raises:
            ValueError, KeyError: if the encoded form is damaged.
        """
        latents = torch.from_numpy(arrays["latents"])
        if len(latents) != self.stop - self.start:
            raise ValueError(f"latents must be {self.stop - self.start}. Got {len(latents)}.")
        return Solutions(latents=latents)


def solve(config: EvaluateConfig, work: Work) -> Tensor | None:
    """Return the solutions of all evaluation samples; None if the evaluation asks for none.

    Args:
        work: runs tasks on the evaluation's workers.
    """
    if config.solution_steps is None:
        return None
    starts = range(0, config.num_samples, config.batch_size)
    tasks = [
        SolutionTask(start=start, stop=min(start + config.batch_size, config.num_samples))
        for start in starts
    ]
    progress = Progress(f"solve by {config.solution_steps} steps", config.num_samples, "samples")
    found: dict[int, Tensor] = {}
    for task, solved in work(tasks):
        found[task.start] = solved.latents
        progress.advance(task.stop - task.start)
    return torch.cat([found[start] for start in starts])


def solution_columns(steps: int | None, errors: Sequence[float]) -> dict[str, object]:
    """Return the columns of results.json on the distance to the solutions; None without them.

    Args:
        steps: steps of the solutions.
        errors: relative L2 distance of each sample's final latent to its solution.
    """
    names = ("solution_rel_l2", "solution_rel_l2_ci95", "solution_rel_l2_p90")
    if not errors:
        worst = ("solution_rel_l2_worst", "solution_rel_l2_samples", "solution_steps")
        return dict.fromkeys((*names, *worst))
    mean, spread = float(np.mean(errors)), float(np.std(errors))
    low, high = normal_interval(mean, spread / math.sqrt(max(1, len(errors) - 1)))
    values = (mean, [max(0.0, low), high], float(np.quantile(errors, 0.9)))
    return dict(zip(names, values, strict=True)) | {
        "solution_rel_l2_worst": max(errors),
        "solution_rel_l2_samples": list(errors),
        "solution_steps": steps,
    }
