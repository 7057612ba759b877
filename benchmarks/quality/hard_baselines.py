"""Learned schedules beside baselines that tune at the same cost, at some numbers of steps.

    python -m benchmarks.quality.hard_baselines --policy runs/policy --seeds 31 32 \\
        --tuning-evaluations 20000 --out benchmarks/results/cpu/hard-baselines-digits.json

For each seed every method chooses its schedules on calibration noise samples, within one number of
guided model evaluations for all of its points together (references and a policy's exploration
included), and is then measured on evaluation noise samples that no method has seen. The file has
each schedule with the error of each sample, the paired comparison of every method with the learned
schedules over samples and seeds, and the command, the machine and the date.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dqar.gates.rules import MaskGate
from dqar.policy.network import ReusePolicy
from dqar.policy.serialization import load_policy
from dqar.signals import relative_error
from pipeline.cluster.hardware import describe_machine
from pipeline.evaluate.config import EvaluateConfig
from pipeline.evaluate.driver import TunedPoint, tune_methods
from pipeline.evaluate.model_runner import ModelRunner
from pipeline.methods.base import CalibrationBudget, Comparison, SweepGrid
from pipeline.statistics import normal_spread_of

METHODS = ("spaced", "one-stretch", "budget-search", "learned")
"""Methods that are compared, the learned schedules last."""
Row = dict[str, Any]
"""Method, seed, schedule, what tuning spent, and the error of each evaluation sample."""


def config_of(policy: ReusePolicy, model: str, seed: int, batch_size: int) -> EvaluateConfig:
    """Return the settings of the policy's runs, with another random seed."""
    spec = policy.spec
    return EvaluateConfig(
        model=model,
        steps=spec.steps,
        sampler=spec.sampler,  # pyright: ignore[reportArgumentType]
        guidance_scale=spec.guidance,
        sites=spec.sites,
        batch_size=batch_size,
        seed=seed,
    )


def tuned(
    runner: ModelRunner, policy: ReusePolicy, arguments: argparse.Namespace
) -> Iterator[TunedPoint]:
    """Yield the points that each method chooses within the tuning budget."""
    steps = policy.spec.steps
    comparison = Comparison(
        methods=tuple(arguments.methods),
        policies={"learned": policy},
        grid=SweepGrid(reuse_ratios=tuple(1 - number / steps for number in arguments.numbers)),
        calibration_budget=CalibrationBudget(evaluations=arguments.tuning_evaluations),
    )

    def work(tasks: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
        return ((task, task.run(runner)) for task in tasks)

    return tune_methods(steps, comparison, work)


def rows_of(policy: ReusePolicy, seed: int, arguments: argparse.Namespace) -> Iterator[Row]:
    """Tune every method with one seed and yield a row for each of its points."""
    config = config_of(policy, arguments.model, seed, arguments.batch_size)
    runner = ModelRunner(config)
    noise, labels = runner.draw("evaluate", list(range(arguments.num_samples)))
    references, _ = runner.sample(noise, labels, config.steps, None)
    for one in tuned(runner, policy, arguments):
        point = one.point
        # The baseline, which reuses nothing, has no gate.
        if point.gate is None or point.schedule is None:
            continue
        gate = MaskGate(point.schedule.mask(config.steps)[:, None, None])
        controller = runner.controller(gate, point.forecast_order, point.feedback)
        latents, _ = runner.sample(noise, labels, config.steps, controller)
        errors = relative_error(latents, references)
        yield {
            "method": point.method,
            "seed": seed,
            "number": len(point.schedule),
            "source": point.schedule_source,
            "computed": list(point.schedule.computed),
            "forecast_order": point.forecast_order,
            "feedback": point.feedback,
            "tuning_evaluations": one.cost.evaluations,
            "mean": float(errors.mean()),
            "p90": float(errors.double().quantile(0.9)),
            "worst": float(errors.max()),
            "latent_rel_l2": [round(float(error), 7) for error in errors],
        }


def compared(rows: list[Row], number: int, method: str) -> Row:
    """Return the paired comparison of the learned schedules with a method, over seeds and samples.

    ``ratio`` is the learned mean over the method's, with a bootstrap interval over samples;
    ``log_ratio`` the mean difference of log errors, with its 95% interval.
    """
    errors = {
        name: np.concatenate(
            [
                row["latent_rel_l2"]
                for row in sorted(rows, key=lambda row: row["seed"])
                if (row["method"], row["number"]) == (name, number)
            ]
        )
        for name in ("learned", method)
    }
    learned, other = errors["learned"], errors[method]
    draws = np.random.default_rng(0).integers(0, len(learned), (2000, len(learned)))
    ratios = learned[draws].mean(axis=1) / other[draws].mean(axis=1)
    spread = normal_spread_of((np.log(learned) - np.log(other)).tolist())
    return {
        "number": number,
        "over": method,
        "learned": float(learned.mean()),
        "other": float(other.mean()),
        "ratio": float(learned.mean() / other.mean()),
        "ratio_ci95": [float(end) for end in np.quantile(ratios, (0.025, 0.975))],
        "log_ratio": spread.mean,
        "log_ratio_half_width": spread.half_width,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="digits", help="model, as for jobs/evaluate.py")
    parser.add_argument("--policy", required=True, help="folder of the policy")
    parser.add_argument("--methods", nargs="+", default=METHODS, help="methods to compare")
    parser.add_argument("--numbers", nargs="+", type=int, default=(12, 17, 25))
    parser.add_argument("--seeds", nargs="+", type=int, default=(31,))
    parser.add_argument("--tuning-evaluations", type=int, default=50_000)
    parser.add_argument("--num-samples", type=int, default=64, help="evaluation samples of a seed")
    parser.add_argument("--batch-size", type=int, default=96)
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    arguments = parser.parse_args()
    policy = load_policy(arguments.policy)
    rows: list[Row] = []
    for seed in arguments.seeds:
        for row in rows_of(policy, seed, arguments):
            rows.append(row)
            shown = {name: row[name] for name in ("seed", "method", "number", "mean", "worst")}
            print(shown, row["computed"], row["forecast_order"], row["feedback"], flush=True)
    has_learned = "learned" in arguments.methods
    others = [one for one in arguments.methods if has_learned and one != "learned"]
    document = {
        "command": " ".join(["python", "-m", "benchmarks.quality.hard_baselines", *sys.argv[1:]]),
        "machine": describe_machine("cuda" if torch.cuda.is_available() else "cpu"),
        "date": datetime.now(UTC).date().isoformat(),
        "tuning_evaluations": arguments.tuning_evaluations,
        "exploration": policy.spec.metrics,
        "compared": [
            compared(rows, number, other) for number in arguments.numbers for other in others
        ],
        "rows": rows,
    }
    text = (
        json.dumps(document).replace('{"method"', '\n{"method"').replace('{"number"', '\n{"number"')
    )
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
