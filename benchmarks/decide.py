"""How long the gates of one step take to decide on the host: DiT-XL/2, 28 layers, 16 samples.

    python -m benchmarks.decide

Median over 300 steps; one thread. The last line is JSON.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from pathlib import Path

import torch

from benchmarks.settings import hand_over, machine_facts
from dqar import DQARController, PolicySpec, ReusePolicy
from dqar.cascade import seed_cascade
from dqar.gates import Gate, Interval, Learned, Scripted
from dqar.records import FEATURE_SETS

LAYERS, SAMPLES, STEPS, RUNS = 28, 16, 10, 30


def learned(features: str, members: int) -> Gate:
    """A policy with random weights, deciding by step."""
    spec = PolicySpec(features=FEATURE_SETS[features], members=members, granularity="step")
    return Learned(ReusePolicy(spec))


def gates() -> dict[str, Gate]:
    """What is timed."""
    controller = DQARController(num_layers=LAYERS)
    plan = torch.rand(STEPS, LAYERS, SAMPLES) < 0.5
    return {
        "cascade": seed_cascade(controller.config),
        "learned full, 1 network": learned("full", 1),
        "learned full, 5 networks": learned("full", 5),
        "learned schedule, 5 networks": learned("schedule", 5),
        "interval": Interval(2),
        "plan": Scripted(plan),
    }


@torch.no_grad()
def milliseconds(gate: Gate) -> dict[str, float]:
    """Of a decision, and of all that a step begins with, its books included."""
    controller = DQARController(num_layers=LAYERS, gate=gate)
    latent = torch.randn(SAMPLES, 4, 32, 32)
    deciding, beginning = [], []
    for step in [*range(STEPS)] * RUNS:
        started = time.perf_counter()
        controller.begin_step(step, STEPS, latent=latent)
        begun = time.perf_counter()
        controller.gate.decide(controller._signal)
        deciding.append(time.perf_counter() - begun)
        beginning.append(begun - started)
    return {
        "decide_ms": round(1e3 * statistics.median(deciding), 4),
        "begin_step_ms": round(1e3 * statistics.median(beginning), 4),
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Time the gates of a step; ends with JSON.")
    parser.add_argument("--out", type=Path, help="also write the JSON line to this file")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    facts = {"device": f"cpu {platform.machine()}"} | machine_facts()
    hand_over(facts | {name: milliseconds(gate) for name, gate in gates().items()}, arguments.out)


if __name__ == "__main__":
    main()
