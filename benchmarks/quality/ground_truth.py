"""Does the model of damage know what one step costs? Single steps toggled, on the same noise.

    python -m benchmarks.quality.ground_truth --model digits --policy runs/bench-both/policy

Schedules are drawn as in a collection, from keys that no collection uses, and of each a few steps
are toggled: a step that computed reuses, or the other way round. All of them are fixed before any
is run. The expected change of D^2 over calibration noise is compared with the change that the
policy predicts; how well two halves of the noise agree bounds what any prediction could reach.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from scipy.stats import spearmanr
from torch import Tensor

from dqar.gates.rules import MaskGate
from dqar.policy.network import ReusePolicy
from dqar.policy.planner import step_damage
from dqar.policy.serialization import load_policy
from dqar.step_schedule import ReuseSetting
from pipeline.evaluate.config import EvaluateConfig
from pipeline.evaluate.worker import EvaluationWorker
from pipeline.exploration.designs import explore
from pipeline.methods.calibration import CalibrationTask

FIRST_KEY = 1_000_000
"""Trajectories of collections have smaller indices."""
TOGGLES = 4
"""Toggled steps of a schedule."""
ROWS = 96
"""Samples of a calibration task."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Toggle:
    """A schedule and one of its steps."""

    computes: tuple[bool, ...]
    step: int

    @property
    def toggled(self) -> tuple[bool, ...]:
        """The schedule with that step the other way round."""
        flipped = list(self.computes)
        flipped[self.step] = not flipped[self.step]
        return tuple(flipped)


def draw_toggles(seed: int, schedules: int, steps: int, max_gap: int) -> list[Toggle]:
    """Toggles of random schedules, none of which goes beyond the staleness that is known."""
    toggles: list[Toggle] = []
    key = FIRST_KEY
    while len(toggles) < schedules * TOGGLES:
        wants = explore(("paced",), seed, key, steps, 1).wants_reuse[:, 0]
        generator = torch.Generator().manual_seed(key)
        order = (1 + torch.randperm(steps - 1, generator=generator)).tolist()
        computes = tuple((~wants).tolist())
        every = [Toggle(computes=computes, step=step) for step in order]
        known = [one for one in every if _is_known(one, max_gap)]
        toggles += known[:TOGGLES]
        key += 1
    return toggles


def _is_known(toggle: Toggle, max_gap: int) -> bool:
    return all(
        late - early <= max_gap + 1
        for computes in (toggle.computes, toggle.toggled)
        for early, late in pairwise([*_steps(computes), len(computes)])
    )


def _steps(computes: tuple[bool, ...]) -> list[int]:
    return [step for step, does in enumerate(computes) if does]


def predicted_damage(damage: Float[Tensor, "t k s c"], computes: tuple[bool, ...]) -> float:
    """D^2 of a schedule by the model: the sum over its stale steps."""
    total, behind = 0.0, [0]
    for step, does in enumerate(computes):
        if not does:
            spans = [late - early for early, late in pairwise(behind[-3:])][::-1]
            span, before = [*spans, 0, 0][:2]
            total += float(damage[step, step - behind[-1] - 1, span, before])
        elif step:
            behind.append(step)
    return total


def measured_damage(
    worker: EvaluationWorker, schedules: list[tuple[bool, ...]], noises: int, setting: ReuseSetting
) -> Float[Tensor, "schedules noises"]:
    """D^2 of each schedule on each noise."""
    errors = []
    for chunk in torch.arange(len(schedules)).split(max(1, ROWS // noises)):
        masks = torch.tensor([schedules[index] for index in chunk]).T.logical_not()
        task = CalibrationTask(
            name="ground truth",
            gate=MaskGate(_by_sample(masks, noises)),
            num_samples=len(chunk) * noises,
            noise_ids=tuple(range(noises)) * len(chunk),
            forecast_order=setting[0],
            feedback=setting[1],
        )
        errors.append(worker.calibrate(task).error.view(-1, noises))
        print(f"{int(chunk[-1]) + 1} of {len(schedules)} schedules", flush=True)
    return torch.cat(errors).square()


def _by_sample(masks: Bool[Tensor, "t s"], noises: int) -> Bool[Tensor, "t 1 b"]:
    return masks.repeat_interleave(noises, dim=1)[:, None, :]


def rank_correlation(one: Tensor, other: Tensor) -> float:
    """Compute Spearman's rank correlation."""
    found: Any = spearmanr(one.numpy(), other.numpy())
    return float(found.statistic)


def compare(
    changes: Float[Tensor, "toggles noises"], predicted: Float[Tensor, " toggles"]
) -> dict[str, float]:
    """The prediction's rank correlation with the expected change, and its ceiling: two halves of
    the noise against each other, for the length of the whole (Spearman and Brown)."""
    halves = rank_correlation(changes[:, ::2].mean(dim=1), changes[:, 1::2].mean(dim=1))
    reliability = 2 * halves / (1 + halves)
    return {
        "rank_correlation": rank_correlation(changes.mean(dim=1), predicted),
        "ceiling": max(reliability, 0.0) ** 0.5,
        "split_half": halves,
        "right_sign": float((changes.mean(dim=1).sign() == predicted.sign()).double().mean()),
    }


def measure(policy: ReusePolicy, arguments: argparse.Namespace) -> dict[str, float]:
    """All figures of a policy."""
    spec = policy.spec
    toggles = draw_toggles(arguments.seed, arguments.schedules, spec.steps, spec.max_gap)
    worker = worker_of(policy, arguments.model, arguments.seed)
    bases = list(dict.fromkeys(toggle.computes for toggle in toggles))
    every = [*bases, *(toggle.toggled for toggle in toggles)]
    noises = arguments.noises
    squared = measured_damage(worker, every, noises, spec.setting)
    snrs = worker.calibrate(
        CalibrationTask(name="snr", gate=MaskGate(_none(spec.steps)), num_samples=1)
    ).snrs
    damage = step_damage(policy, snrs, spec.forecast_order, spec.max_gap, spec.feedback)
    of_base = torch.tensor([bases.index(toggle.computes) for toggle in toggles])
    totals = torch.tensor([predicted_damage(damage, computes) for computes in every])
    first = len(bases)
    changes = squared[first:] - squared[of_base]
    figures = compare(changes.double(), totals[first:] - totals[of_base])
    whole = rank_correlation(squared.mean(dim=1), totals)
    return figures | {"toggles": len(toggles), "noises": noises, "whole_schedules": whole}


def worker_of(policy: ReusePolicy, model: str, seed: int) -> EvaluationWorker:
    """A worker in this process that runs what a policy was trained for, on noise of a seed."""
    spec = policy.spec
    config = EvaluateConfig(
        model=model,
        steps=spec.steps,
        guidance_scale=spec.guidance,
        sites=spec.sites,
        seed=seed,
    )
    return EvaluationWorker(config)


def _none(steps: int) -> Bool[Tensor, "t 1 1"]:
    return torch.zeros(steps, 1, 1, dtype=torch.bool)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="digits")
    parser.add_argument("--policy", required=True)
    parser.add_argument("--schedules", type=int, default=60, help="each with 4 toggled steps")
    parser.add_argument("--noises", type=int, default=16)
    parser.add_argument("--seed", type=int, default=30)
    parser.add_argument("--out", type=Path, help="also write the JSON line to this file")
    arguments = parser.parse_args()
    figures = measure(load_policy(arguments.policy), arguments)
    line = json.dumps(figures | {"date": datetime.now(UTC).date().isoformat()})
    if arguments.out:
        arguments.out.write_text(line + "\n")
    print(line)


if __name__ == "__main__":
    main()
