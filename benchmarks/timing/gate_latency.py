"""Latency of the reuse decisions of one step on the host, for 28 layers (DiT-XL/2) and 16 samples.

    python -m benchmarks.timing.gate_latency

Figures are medians over 300 steps on one thread. The last line is JSON.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.timing.support.flags import hand_over, machine_facts
from dqar import DQARController, PolicySpec, ReusePolicy, StaticPlan, export_plan
from dqar.gates.base import Gate
from dqar.gates.paper_cascade import paper_cascade
from dqar.gates.rules import Interval, Learned, MaskGate
from dqar.integration import PlannedDiT
from dqar.records import FEATURE_SETS

LAYERS, SAMPLES, STEPS, RUNS = 28, 16, 10, 30


def learned(features: str, members: int) -> Gate:
    """Gate of a policy with random weights that decides once for all layers of a step."""
    spec = PolicySpec(features=FEATURE_SETS[features], members=members, granularity="step")
    return Learned(ReusePolicy(spec))


def gates() -> dict[str, Gate]:
    """Gates to time, by name."""
    controller = DQARController(num_layers=LAYERS)
    plan = torch.rand(STEPS, LAYERS, SAMPLES) < 0.5
    return {
        "cascade": paper_cascade(controller.config),
        "learned full, 1 network": learned("full", 1),
        "learned full, 5 networks": learned("full", 5),
        "learned schedule, 5 networks": learned("schedule", 5),
        "interval": Interval(2),
        "plan": MaskGate(plan),
    }


@torch.no_grad()
def milliseconds(gate: Gate) -> dict[str, float]:
    """Median milliseconds of the decisions of a step, and of ``begin_step``, which decides and
    updates the state of the controller."""
    controller = DQARController(num_layers=LAYERS, gate=gate)
    latent = torch.randn(SAMPLES, 4, 32, 32)
    deciding, beginning = [], []
    for step in [*range(STEPS)] * RUNS:
        started = time.perf_counter()
        controller.begin_step(step, STEPS, latent=latent)
        begun = time.perf_counter()
        controller.gate.decide(controller._opened().inputs)
        deciding.append(time.perf_counter() - begun)
        beginning.append(begun - started)
    return {
        "decide_ms": round(1e3 * statistics.median(deciding), 4),
        "begin_step_ms": round(1e3 * statistics.median(beginning), 4),
    }


class Idle(nn.Module):
    """Transformer that computes nothing, which leaves the other costs of a planned step."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        block = {"attn1": nn.Identity(), "ff": nn.Identity()}
        self.transformer_blocks = nn.ModuleList(nn.ModuleDict(block) for _ in range(LAYERS))

    def forward(self, hidden_states: Tensor, timestep: Tensor) -> Tensor:
        del timestep
        return hidden_states


@torch.no_grad()
def planned_milliseconds(plan: StaticPlan) -> dict[str, float]:
    """Median milliseconds of a step of a planned transformer that computes nothing.

    Returns:
        ``step_ms`` of a step whose variant was built earlier in the run, and
        ``first_of_its_kind_ms`` of a step that builds its variant.
    """
    planned = PlannedDiT(Idle(), plan)
    scheduler = SimpleNamespace(timesteps=torch.arange(plan.steps))
    latent = torch.randn(SAMPLES, 4, 32, 32)
    first, others = [], []
    for _ in range(RUNS):
        seen = set()
        with planned.run(scheduler):
            for row, timestep in zip(plan.table, scheduler.timesteps, strict=True):
                started = time.perf_counter()
                planned(latent, timestep)
                (others if row in seen else first).append(time.perf_counter() - started)
                seen.add(row)
    return {
        "step_ms": round(1e3 * statistics.median(others), 4),
        "first_of_its_kind_ms": round(1e3 * statistics.median(first), 4),
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Time gates on the host; the last line is JSON.")
    parser.add_argument("--out", type=Path, help="also write the JSON line to this file")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    facts = {"device": f"cpu {platform.machine()}"} | machine_facts()
    figures: dict[str, Any] = {name: milliseconds(gate) for name, gate in gates().items()}
    plan = export_plan(Interval(2), sites=("attn",), num_layers=LAYERS, steps=STEPS)
    hand_over(facts | figures | {"planned": planned_milliseconds(plan)}, arguments.out)


if __name__ == "__main__":
    main()
