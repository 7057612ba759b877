"""The talk's benchmark: entropy threshold x reuse limit on the dummy DiT (slides 11 to 14).

Three scenarios at each point: ``baseline`` is the stock transformer, ``static`` reuses whatever is
cached, ``dqar`` is the seed's cascade. Within a run they sample the same noise one after the other.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from dqar import DQARConfig, DQARController, DQARDiTWrapper
from dqar.gates.rules import NeverReuse, RequireCached
from dqar.integration import DQARDDIMSampler, SamplerConfig
from dqar.records import GateRecord
from pipeline.cluster.hardware import resident_mb
from pipeline.models.noise import draw_noise
from pipeline.paper_sweeps import dummy_dit
from pipeline.paper_sweeps.statistics import Sweep, Swept, rotated
from pipeline.progress import Progress

SCENARIOS = ("baseline", "static", "dqar")
MAX_STEPS = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class ThresholdConfig:
    """The grid and how often each point of it is run; the defaults are the talk's."""

    thresholds: tuple[float, ...] = (1.5, 3.0, 5.0)
    """Entropy thresholds tau, nats."""
    reuse_limits: tuple[int, ...] = (2, 4, 6)
    """Most reuses of an entry since its commit."""
    max_gap: int = 6
    """Most steps since an entry's commit."""
    runs: int = 5
    """Runs of each point, each on noise of its own."""
    steps: int = 12
    """Denoising steps of a run."""
    seed: int = 0
    """Seed of the weights and of the noise."""
    device: str = "cpu"
    """Where the dummy computes."""

    def __post_init__(self) -> None:
        for name in ("thresholds", "reuse_limits"):
            values = getattr(self, name)
            if not values or min(values) <= 0:
                raise ValueError(
                    f"{name} must be one or more positive numbers. Got {values}. Pass 2,4,6."
                )
        for name in ("max_gap", "runs"):
            value = getattr(self, name)
            if value < 1:
                raise ValueError(f"{name} must be at least 1. Got {value}. Pass 5.")
        if not 2 <= self.steps <= MAX_STEPS:
            raise ValueError(f"steps must be in [2, {MAX_STEPS}]. Got {self.steps}. Pass 12.")

    def dqar_config(self, threshold: float, reuse_limit: int) -> DQARConfig:
        """The talk's values with one point's threshold and limit."""
        return replace(
            DQARConfig.slides(),
            entropy_threshold=threshold,
            max_reuse_per_block=reuse_limit,
            max_gap=self.max_gap,
        )


def sweep_thresholds(config: ThresholdConfig) -> Sweep:
    """Every point of the grid, every scenario, every run."""
    bench = DummyBench(config)
    facts = bench.observe_entropy() | {"gates": dummy_dit.NUM_LAYERS * config.steps}
    grid = [(tau, limit) for tau in config.thresholds for limit in config.reuse_limits]
    progress = Progress("sweep", len(grid), "points")
    points: list[Swept] = []
    for threshold, limit in grid:
        points += bench.compare(threshold, limit)
        progress.advance(1)
    return Sweep(kind="threshold", config=asdict(config), facts=facts, points=points)


class DummyBench:
    """The dummy, and timed runs of it."""

    def __init__(self, config: ThresholdConfig) -> None:
        self.config = config
        self.dummy = dummy_dit.build_dummy(config.device, config.seed)
        self.wrapper = DQARDiTWrapper(self.dummy.transformer)
        self._warm_up()

    def _warm_up(self) -> None:
        # The first forward pays for kernels and allocators; it must not be any scenario's time.
        for scenario in SCENARIOS:
            self.run(scenario, self.config.dqar_config(float("inf"), 1), 0)

    def compare(self, threshold: float, reuse_limit: int) -> list[Swept]:
        """The scenarios at one point, interleaved within each run."""
        dqar = self.config.dqar_config(threshold, reuse_limit)
        runs = [self._interleave(dqar, run) for run in range(self.config.runs)]
        return [
            Swept(
                setting={"scenario": name, "threshold": threshold, "reuse_limit": reuse_limit},
                runs=tuple(run[name] for run in runs),
            )
            for name in SCENARIOS
        ]

    def _interleave(self, dqar: DQARConfig, run: int) -> dict[str, dict[str, Any]]:
        found = {name: self.run(name, dqar, run) for name in rotated(SCENARIOS, run)}
        baseline_ms = found["baseline"]["runtime_ms"]
        return {
            name: measured | {"speedup": baseline_ms / measured["runtime_ms"]}
            for name, measured in found.items()
        }

    def run(self, scenario: str, dqar: DQARConfig, run: int) -> dict[str, Any]:
        """Sample one latent: runtime in ms, peak resident memory in MiB, reuses and reasons."""
        controller = controller_of(scenario, dqar)
        resident = [resident_mb()]
        started = self._now()
        self._sample(controller, run, lambda _: resident.append(resident_mb()))
        runtime_ms = (self._now() - started) * 1e3
        summary = None if controller is None else controller.summary()
        return {
            "runtime_ms": runtime_ms,
            "rss_mb": max(resident),
            "reuse_count": 0 if summary is None else summary.reused,
            "cache_mb": 0.0 if summary is None else summary.cache_bytes / 2**20,
            "by_reason": {} if summary is None else summary.by_reason,
        }

    def _sample(self, controller: DQARController | None, run: int, on_step: Any) -> None:
        # Between runs the wrapped transformer is stock: that is the baseline.
        model = self.dummy.transformer if controller is None else self.wrapper
        sampling = SamplerConfig(num_inference_steps=self.config.steps, guidance_scale=1.0)
        noise, labels = draw_noise(
            "evaluate", self.config.seed, [run], dummy_dit.LATENT_SHAPE, dummy_dit.NUM_CLASSES
        )
        DQARDDIMSampler(model, self.dummy.scheduler, sampling).sample(
            1,
            labels.to(self.config.device),
            latents=noise.to(self.config.device),
            controller=controller,
            on_step=on_step,
        )

    def _now(self) -> float:
        if self.config.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def observe_entropy(self) -> dict[str, float]:
        """Least and largest entropy that a gate sees when nothing is reused, in nats."""
        records: list[GateRecord] = []
        for run in range(self.config.runs):
            controller = DQARController(gate=NeverReuse(), sink=records.append)
            self._sample(controller, run, lambda _: None)
        # On step 0 nothing was measured yet.
        seen = torch.cat([one.inputs.entropy for one in records if one.inputs.step.index > 0])
        return {"entropy_min": float(seen.min()), "entropy_max": float(seen.max())}


def controller_of(scenario: str, dqar: DQARConfig) -> DQARController | None:
    """Who decides in a scenario; None leaves the model as it is."""
    if scenario == "baseline":
        return None
    return DQARController(dqar, gate=RequireCached() if scenario == "static" else None)
