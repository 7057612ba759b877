"""Test of a policy's damage model: predicted against measured change when one step is toggled.

    python -m benchmarks.quality.ground_truth --model digits --policy runs/bench-both/policy

Schedules are drawn by the exploration design ``paced`` with trajectory indices that no collection
uses. In each schedule 4 steps are toggled, one at a time: a step that computed reuses, or a step
that reused computes. All toggles are drawn before any sample runs. D is the relative L2 distance of
the final latent to the reference sample, which has the same noise and no reuse. The mean change of
D^2 over calibration noise is compared with the change that the policy predicts. The rank
correlation of two halves of the noise samples bounds the one that any prediction could reach.
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
"""Trajectory index of the first schedule; collections use smaller indices."""
TOGGLES = 4
"""Steps toggled in each schedule."""
ROWS = 96
"""Samples that one calibration task holds, unless one schedule needs more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Toggle:
    """A schedule and the step of it that is toggled."""

    computes: tuple[bool, ...]
    """True for each step that computes."""
    step: int
    """Index of the toggled step."""

    @property
    def toggled(self) -> tuple[bool, ...]:
        """The schedule with the decision of :attr:`step` inverted."""
        flipped = list(self.computes)
        flipped[self.step] = not flipped[self.step]
        return tuple(flipped)


def draw_toggles(seed: int, schedules: int, steps: int, max_gap: int) -> list[Toggle]:
    """Draw toggles of random schedules, with no gap above ``max_gap`` before or after a toggle."""
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
    """Predict D^2 of a schedule as the sum of the damage of its steps that reuse."""
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
    worker: EvaluationWorker,
    schedules: list[tuple[bool, ...]],
    num_samples: int,
    setting: ReuseSetting,
) -> Float[Tensor, "schedules samples"]:
    """Measure D^2 of each schedule on each of the first calibration noise samples."""
    errors = []
    for chunk in torch.arange(len(schedules)).split(max(1, ROWS // num_samples)):
        masks = torch.tensor([schedules[index] for index in chunk]).T.logical_not()
        task = CalibrationTask(
            name="ground truth",
            gate=MaskGate(_by_sample(masks, num_samples)),
            num_samples=len(chunk) * num_samples,
            noise_ids=tuple(range(num_samples)) * len(chunk),
            forecast_order=setting[0],
            feedback=setting[1],
        )
        errors.append(worker.calibrate(task).error.view(-1, num_samples))
        print(f"measured {int(chunk[-1]) + 1} of {len(schedules)} schedules", flush=True)
    return torch.cat(errors).square()


def _by_sample(masks: Bool[Tensor, "t s"], num_samples: int) -> Bool[Tensor, "t 1 b"]:
    return masks.repeat_interleave(num_samples, dim=1)[:, None, :]


def rank_correlation(one: Tensor, other: Tensor) -> float:
    """Compute Spearman's rank correlation."""
    found: Any = spearmanr(one.numpy(), other.numpy())
    return float(found.statistic)


def compare(
    changes: Float[Tensor, "toggles samples"], predicted: Float[Tensor, " toggles"]
) -> dict[str, float]:
    """Compare predicted changes of D^2 with measured ones.

    Returns:
        ``rank_correlation`` of the prediction with the mean measured change. ``split_half``: rank
        correlation of the mean changes over two halves of the samples. ``ceiling``: rank
        correlation that the true mean changes would have with the measured ones, the square root
        of the reliability that the Spearman-Brown formula gives for ``split_half``.
        ``right_sign``: share of toggles whose predicted change has the measured sign.
    """
    halves = rank_correlation(changes[:, ::2].mean(dim=1), changes[:, 1::2].mean(dim=1))
    reliability = 2 * halves / (1 + halves)
    return {
        "rank_correlation": rank_correlation(changes.mean(dim=1), predicted),
        "ceiling": max(reliability, 0.0) ** 0.5,
        "split_half": halves,
        "right_sign": float((changes.mean(dim=1).sign() == predicted.sign()).double().mean()),
    }


def measure(policy: ReusePolicy, arguments: argparse.Namespace) -> dict[str, float]:
    """Measure all figures of a policy, as the result's JSON."""
    spec = policy.spec
    toggles = draw_toggles(arguments.seed, arguments.schedules, spec.steps, spec.max_gap)
    worker = worker_of(policy, arguments.model, arguments.seed)
    bases = list(dict.fromkeys(toggle.computes for toggle in toggles))
    every = [*bases, *(toggle.toggled for toggle in toggles)]
    num_samples = arguments.noise_samples
    squared = measured_damage(worker, every, num_samples, spec.setting)
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
    sizes = {"toggles": len(toggles), "noises": num_samples}
    return figures | sizes | {"whole_schedules": whole}


def worker_of(policy: ReusePolicy, model: str, seed: int) -> EvaluationWorker:
    """Build a worker in this process with a policy's steps, guidance and sites."""
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
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="digits", help="model, as for jobs/evaluate.py")
    parser.add_argument("--policy", required=True, help="folder of the policy to test")
    parser.add_argument("--schedules", type=int, default=60, help="schedules, 4 toggles in each")
    parser.add_argument("--noise-samples", type=int, default=16, help="samples of each schedule")
    parser.add_argument("--seed", type=int, default=30, help="seed of schedules and noise")
    parser.add_argument("--out", type=Path, help="also write the JSON line to this file")
    arguments = parser.parse_args()
    figures = measure(load_policy(arguments.policy), arguments)
    line = json.dumps(figures | {"date": datetime.now(UTC).date().isoformat()})
    if arguments.out:
        arguments.out.write_text(line + "\n")
    print(line)


if __name__ == "__main__":
    main()
