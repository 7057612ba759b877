"""Dummy DiT of the DQAR talk's benchmark (slides 11 to 14), and the profile of sampling it once.

The dummy DiT has six random blocks whose attention entropies lie around the talk's thresholds.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from dqar.control.controller import DQARController
from dqar.gates.rules import NeverReuse
from dqar.records import GateRecord
from pipeline.cluster.hardware import resident_mb
from pipeline.evaluate.model_runner import ModelRunner
from pipeline.evaluate.sweeps.config import ThresholdConfig
from pipeline.evaluate.sweeps.grids import GridPoint, scenarios
from pipeline.evaluate.sweeps.results import Row
from pipeline.models.loading import LoadedModel
from pipeline.models.model_info import info_of

NUM_LAYERS = 6
SHARPNESS = (2.2, 2.7, 2.2, 2.6, 2.2, 2.4)
"""Factors on the query and key weights of each block. The attention scores grow with the square of
the factor, which brings the entropy from almost ln 64 = 4.16 (patches of 2 make 64 tokens) down to
about 2.1 to 3.5 nats. The factors differ, so that a threshold in that range lets some blocks reuse
and others not."""


def build_dummy(device: str, seed: int = 0) -> LoadedModel:
    """Return a random DiT, the same for the same seed; torch's global generator keeps its state."""
    from diffusers import DDIMScheduler

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = _random_dit()
    for block, sharpness in zip(transformer.transformer_blocks, SHARPNESS, strict=True):
        for projection in (block.attn1.to_q, block.attn1.to_k):
            projection.weight.data.mul_(sharpness)
    # The cosine schedule is the talk's: the SNR of most of its steps lies in [0.1, 100].
    scheduler = DDIMScheduler(beta_schedule="squaredcos_cap_v2", clip_sample=False)
    named = {"name": "dummy", "folder": Path(), "model_hash": "", "guidance_scale": 1.0}
    return LoadedModel(
        info=info_of(transformer.config, scheduler.config, **named),
        transformer=transformer.to(device).eval(),
        scheduler=scheduler,
        vae=None,
        classifier=None,
    )


def _random_dit() -> Any:
    from diffusers import DiTTransformer2DModel

    model = DiTTransformer2DModel(
        num_attention_heads=4,
        attention_head_dim=48,
        in_channels=4,
        out_channels=4,
        num_layers=NUM_LAYERS,
        sample_size=16,
        patch_size=2,
        num_embeds_ada_norm=10,
    )
    return model.requires_grad_(False)


class DummyBench:
    """Sweep on the dummy DiT, profiled one sample at a time."""

    def __init__(self, config: ThresholdConfig) -> None:
        self.config = config
        dummy = build_dummy(config.device, config.seed)
        self.runner = ModelRunner(config.evaluate_config(), model=dummy)
        self._warm_up()

    def _warm_up(self) -> None:
        # The first forward pass also loads kernels and grows the allocator's pools.
        for point in scenarios(self.config.dqar_config(float("inf"), 1)):
            self.profile(point, 0)

    def lay_out(self) -> tuple[list[list[GridPoint]], dict[str, Any]]:
        """Return the scenarios at each threshold and limit, and the observed range of entropies."""
        config = self.config
        cells = [(tau, limit) for tau in config.thresholds for limit in config.reuse_limits]
        groups = [scenarios(config.dqar_config(*cell)) for cell in cells]
        return groups, self.observe_entropy() | {"gates": NUM_LAYERS * config.steps}

    def start(self, run: int) -> Callable[[GridPoint], Row]:
        """Return the function that profiles a point on the noise sample of a run."""
        return lambda point: self.profile(point, run)

    def compare(self, group: list[GridPoint], rows: list[Row]) -> list[Row]:
        """Add the speed-up of each point over the baseline of the same run."""
        (bare,) = [row for row, point in zip(rows, group, strict=True) if point.gate is None]
        return [row | {"speedup": bare["runtime_ms"] / row["runtime_ms"]} for row in rows]

    def profile(self, point: GridPoint, run: int) -> Row:
        """Sample once; return runtime in ms, peak resident memory in MiB, reuses and reasons."""
        controller = None if point.gate is None else self.runner.controller(point.gate)
        resident = [resident_mb()]
        seconds = self._sample(controller, run, lambda _: resident.append(resident_mb()))
        summary = None if controller is None else controller.summary()
        return {
            "runtime_ms": seconds * 1e3,
            "rss_mb": max(resident),
            "reuse_count": 0 if summary is None else summary.reused,
            "cache_mb": 0.0 if summary is None else summary.cache_bytes / 2**20,
            "by_reason": {} if summary is None else summary.by_reason,
        }

    def _sample(
        self,
        controller: DQARController | None,
        run: int,
        on_step: Callable[[int], None] = lambda done: None,
    ) -> float:
        noise, labels = self.runner.draw("evaluate", [run])
        return self.runner.sample(noise, labels, self.config.steps, controller, on_step=on_step)[1]

    def observe_entropy(self) -> dict[str, float]:
        """Return the least and the largest attention entropy without reuse, in nats."""
        records: list[GateRecord] = []
        for run in range(self.config.runs):
            controller = self.runner.controller(NeverReuse(), sink=records.append)
            self._sample(controller, run)
        # A decision sees the entropy of the attention computed last; step 0 has none.
        seen = torch.cat([one.inputs.entropy for one in records if one.inputs.step.index > 0])
        return {"entropy_min": float(seen.min()), "entropy_max": float(seen.max())}
