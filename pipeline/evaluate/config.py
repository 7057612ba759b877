"""Settings that all operating points of an evaluation share."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import Tensor

from dqar.cache.quantization import Granularity
from dqar.config import CachedParts, DQARConfig
from dqar.config_file import read_yaml
from dqar.policy.network import ReusePolicy
from dqar.records import WHOLE_SITES
from pipeline.evaluate.flags import SAMPLES_PER_TASK, EvaluateFlags, EvaluateSettings
from pipeline.evaluate.tasks import EvalTask
from pipeline.methods.base import GRIDS, CalibrationBudget, Comparison, OperatingPoint
from pipeline.methods.registry import chosen_methods
from pipeline.methods.task import SolutionTask
from pipeline.models.model_info import ModelInfo
from pipeline.models.sampling_choices import (
    SAMPLER,
    SITES,
    STEPS,
    Sampler,
    canonical_sampler,
    require_sampler,
)
from pipeline.redaction import without_secrets

FIGURES = (
    "reuse_ratio",
    "flops_ratio",
    "speedup",
    "latency_s",
    "latent_rel_l2",
    "psnr",
    "ssim",
    "fid",
    "label_accuracy",
    "cache_mb",
)
"""Columns of results.json with the costs and the quality of an operating point."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PaperSettings:
    """Settings of the DQAR paper's experiments: the keys of ``jobs/evaluate.py --config``."""

    cached: CachedParts = "output"
    """Cached part of ``attn``: its output, or its keys and values."""
    cache_bits: Literal[2, 4, 8, 16, 32] = 8
    """Bits of a cached value."""
    cache_granularity: Granularity = "per_tensor"
    """Granularity of an integer cache's scales."""
    fp16_keys: bool = False
    """True keeps cached keys in fp16 (the paper's K16/V8)."""
    salience_balancing: bool = False
    """True balances the cache's channels by salience (the paper's CSB), measured on calibration
    noise samples."""
    cross_branch_threshold: float | None = None
    """Relative L2 distance of the guidance branches within which the unconditional rows take the
    conditional value; None never."""
    greedy_policies: bool = False
    """True evaluates policies without plans, which decide step by step."""
    methods: tuple[str, ...] = ()
    """Methods beside those of ``--methods``, of :func:`pipeline.methods.registry.paper_names`."""


PAPER = PaperSettings()


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateConfig(EvaluateSettings):
    """Settings that all operating points of an evaluation share. Fields that :class:`PaperSettings`
    names otherwise keep their names in results.json and in MLflow."""

    model: str
    steps: int = STEPS
    guidance_scale: float = 4.0
    sampler: Sampler = SAMPLER
    sites: tuple[str, ...] = SITES
    cached: CachedParts = PAPER.cached
    cache_bits: Literal[2, 4, 8, 16, 32] = PAPER.cache_bits
    cache_granularity: Granularity = PAPER.cache_granularity
    quantize_keys: bool = not PAPER.fp16_keys
    """False keeps cached keys in fp16."""
    forecast_order: Literal[0, 1, 2] = 0
    """Order of the forecasts that a reuse shows; each point and task sets its own."""
    feedback: float = 0.0
    """Gain of the error feedback; each point and task sets its own."""
    balanced: bool = PAPER.salience_balancing
    """Balance the cache's channels by salience, measured on calibration noise samples."""
    cross_branch_threshold: float | None = PAPER.cross_branch_threshold
    part_samples: int = SAMPLES_PER_TASK
    """Samples of a task, rounded up to whole batches. A point of more samples is split into several
    tasks, whose sums add up to the same row."""

    def __post_init__(self) -> None:
        for name in ("num_samples", "batch_size", "part_samples"):
            value = getattr(self, name)
            if value < 1:
                raise ValueError(f"{name} must be at least 1. Got {value}. Pass 64.")
        if self.steps < 2:
            raise ValueError(f"steps must be at least 2. Got {self.steps}. Pass --steps 50.")
        # The distance to a solution that is coarser than the samples says nothing of them.
        if self.solution_steps is not None and self.solution_steps < self.steps:
            raise ValueError(
                f"solution_steps must be at least the {self.steps} steps of the reference samples. "
                f"Got {self.solution_steps}. Pass --solution-steps 1000, or leave it out."
            )
        require_sampler(self.sampler)
        if not math.isfinite(self.guidance_scale):
            raise ValueError(f"guidance_scale must be finite. Got {self.guidance_scale}. Pass 4.0.")
        self.dqar_config()
        self._refuse_idle_settings()

    def _refuse_idle_settings(self) -> None:
        is_integer = self.cache_bits < 16
        if self.balanced and (not is_integer or not {*WHOLE_SITES}.isdisjoint(self.sites)):
            raise ValueError(
                "salience_balancing must come with 2, 4 or 8 bits and the sites attn or ff. Got "
                f"{self.cache_bits} bits, {self.sites}. Leave salience_balancing out of "
                "--config, or give it cache_bits: 8 and pass --sites attn."
            )
        if not self.quantize_keys and (not is_integer or self.cached != "kv"):
            raise ValueError(
                "fp16_keys must come with cached keys of 2, 4 or 8 bits. Got "
                f"cached={self.cached!r}, {self.cache_bits} bits. Leave fp16_keys out of "
                "--config, or give it cached: kv and cache_bits: 8."
            )
        if self.cross_branch_threshold is not None and self.num_branches == 1:
            raise ValueError(
                "cross_branch_threshold must come with two guidance branches. Got guidance_scale="
                f"{self.guidance_scale}. Pass --guidance-scale 4."
            )

    @property
    def num_branches(self) -> int:
        """Guidance branches of a sample."""
        return 2 if self.guidance_scale > 1 else 1

    def parts_of(self, point: OperatingPoint, solutions: Tensor | None = None) -> list[EvalTask]:
        """The tasks of a point, of whole batches each: the same batches give the same images.

        Args:
            point: operating point.
            solutions: solutions of all samples by many steps; None without them.
        """
        size = math.ceil(self.part_samples / self.batch_size) * self.batch_size
        parts = [
            EvalTask(point=point, start=start, stop=stop) for start, stop in self._ranges(size)
        ]
        if solutions is None:
            return parts
        return [replace(one, solutions=solutions[one.start : one.stop]) for one in parts]

    def solution_tasks(self) -> list[SolutionTask]:
        """The tasks of the solutions of all samples by many steps; none without solution_steps."""
        ranges = [] if self.solution_steps is None else self._ranges(self.batch_size)
        return [
            SolutionTask(purpose="evaluate", noise_ids=tuple(range(start, stop)))
            for start, stop in ranges
        ]

    def _ranges(self, size: int) -> list[tuple[int, int]]:
        starts = range(0, self.num_samples, size)
        return [(start, min(start + size, self.num_samples)) for start in starts]

    def columns(self) -> dict[str, Any]:
        """Columns of results.json that say how a row was measured."""
        return {
            "sites": ",".join(self.sites),
            "cached": self.cached,
            "cache_bits": self.cache_bits,
            "cache_granularity": self.cache_granularity,
            "quantize_keys": self.quantize_keys,
            "forecast_order": self.forecast_order,
            "feedback": self.feedback,
            "balanced": self.balanced,
            "cross_branch_threshold": self.cross_branch_threshold,
            "num_samples": self.num_samples,
            "sampler": self.sampler,
            "guidance": self.guidance_scale,
            # A path may look like a URI with a token.
            "model": without_secrets(self.model),
            "dtype": self.dtype,
            "seed": self.seed,
        }

    def with_reuse_setting(self, order: int, feedback: float) -> EvaluateConfig:
        """The same settings with another forecast order and gain of the error feedback."""
        return replace(self, forecast_order=order, feedback=feedback)  # pyright: ignore[reportArgumentType]

    def dqar_config(self) -> DQARConfig:
        """The configuration of the instrumented model."""
        return DQARConfig(
            quantization_bits=self.cache_bits,
            quantization_mode=self.cache_granularity,
            quantize_keys=self.quantize_keys,
            cached=self.cached,
            forecast_order=self.forecast_order,
            feedback=self.feedback,
            cross_branch_threshold=self.cross_branch_threshold,
            sites=self.sites,
        )


def read_paper_settings(path: str | None) -> PaperSettings:
    """The settings of the file of ``--config``; the defaults without a file.

    Raises:
        ValueError: one line, if the file cannot be read.
    """
    return read_yaml(path, PaperSettings) if path else PAPER


def evaluate_config(
    flags: EvaluateFlags, paper: PaperSettings, info: ModelInfo, policy: ReusePolicy | None
) -> EvaluateConfig:
    """The settings of an evaluation. Flags left out follow the policy, else the model.

    Args:
        policy: the first of the evaluation; None without any.

    Raises:
        ValueError: if a value is out of range or has no effect.
    """
    spec = policy.spec if policy else None
    follows = {
        "steps": spec.steps if spec else STEPS,
        "guidance_scale": spec.guidance if spec else info.guidance_scale,
        "sampler": spec.sampler if spec else SAMPLER,
        "sites": spec.sites if spec else SITES,
    }
    given = {name: getattr(flags, name) for name in follows}
    if flags.sampler is not None:
        given["sampler"] = canonical_sampler(flags.sampler)
    shared = {name: getattr(flags, name) for name in EvaluateSettings.__dataclass_fields__}
    return EvaluateConfig(
        model=flags.model,
        part_samples=flags.samples_per_task,
        cached=paper.cached,
        cache_bits=paper.cache_bits,
        cache_granularity=paper.cache_granularity,
        quantize_keys=not paper.fp16_keys,
        balanced=paper.salience_balancing,
        cross_branch_threshold=paper.cross_branch_threshold,
        **shared,
        **{name: follows[name] if value is None else value for name, value in given.items()},
    )


def comparison_of(
    flags: EvaluateFlags, paper: PaperSettings, policies: dict[str, ReusePolicy]
) -> Comparison:
    """The methods and policies of an evaluation, and the density of its sweeps.

    Raises:
        ValueError: if the error budget is out of range or has no effect.
    """
    methods = tuple(dict.fromkeys((*flags.methods, *paper.methods)))
    roles = {method.role for method in chosen_methods(methods)}
    if not policies and "subject" in roles and roles <= {"subject", "reference"}:
        raise ValueError(
            f"methods must hold one that can be measured. Got {', '.join(methods)} without a "
            "policy. Pass --policy FOLDER, or other --methods."
        )
    return Comparison(
        methods=methods,
        policies=policies,
        grid=GRIDS[flags.sweep_density],
        error_budget=flags.error_budget,
        calibration_budget=CalibrationBudget(evaluations=flags.tuning_evaluations),
        solution_steps=flags.solution_steps,
    )
