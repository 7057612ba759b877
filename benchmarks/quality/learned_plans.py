"""Learned schedules with the error of each sample: planned by a policy or chosen by an evaluation.

    python -m benchmarks.quality.learned_plans --policy runs/bench-both/policy \\
        --results runs/bench-both/results-21 --out benchmarks/results/plans/digits.json

Every schedule runs on the same evaluation samples. The file has the steps of each schedule that
compute, the forecast order and the feedback gain of its other steps, and for each sample the
relative L2 distance of the final latent to the reference sample (same noise, no reuse). A new
planner can be compared with these errors on the same samples.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.quality.ground_truth import worker_of
from dqar.gates.rules import MaskGate
from dqar.policy.network import ReusePolicy
from dqar.policy.serialization import load_policy
from dqar.schedules.serialization import load_plan
from dqar.schedules.static_plan import StaticPlan
from dqar.signals import relative_error
from pipeline.cluster.hardware import describe_machine
from pipeline.evaluate.result_rows import read_rows
from pipeline.evaluate.worker import EvaluationWorker
from pipeline.report.plan_files import FOLDER, name_of

Schedule = dict[str, Any]
"""``source``, ``computed`` (steps that compute every gate), ``forecast_order``, ``feedback``."""


def planned(policy: ReusePolicy) -> Iterator[Schedule]:
    """Yield the policy's own plan for each number of computed steps."""
    spec = policy.spec
    for computed, error in zip(spec.plans, spec.plan_errors, strict=True):
        yield {
            "source": "policy",
            "computed": list(computed),
            "forecast_order": spec.forecast_order,
            "feedback": spec.feedback,
            "predicted_error": error,
        }


def chosen(results: Path, method: str) -> Iterator[Schedule]:
    """Yield the schedules that an evaluation chose for a method on calibration noise samples."""
    rows = read_rows(results)
    for row in rows:
        if row["method"] == method and row["schedule_source"]:
            yield {
                "source": f"evaluation, {row['schedule_source']}",
                "computed": computed_of(load_plan(results / FOLDER / name_of(row))),
                "forecast_order": row["forecast_order"],
                "feedback": row["feedback"],
                "flops_ratio": row["flops_ratio"],
            }


def computed_of(plan: StaticPlan) -> list[int]:
    """Steps of a plan at which no gate reuses."""
    return [step for step, reuses in enumerate(plan.mask.any(dim=1).tolist()) if not reuses]


def errors_of(
    worker: EvaluationWorker, schedule: Schedule, count: int
) -> Float[Tensor, " samples"]:
    """Relative L2 distance of the first evaluation samples to their reference samples."""
    runner = worker.runner
    noise, labels = runner.draw("evaluate", list(range(count)))
    steps = worker.config.steps
    if 0 not in worker.references:
        worker.references[0], _ = runner.sample(noise, labels, steps, None)
    reuse = torch.ones(steps, dtype=torch.bool)
    reuse[schedule["computed"]] = False
    setting = schedule["forecast_order"], schedule["feedback"]
    controller = runner.controller(MaskGate(reuse[:, None, None]), *setting)
    latents, _ = runner.sample(noise, labels, steps, controller)
    return relative_error(latents, worker.references[0])


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure the errors of all schedules; return the content of the result file."""
    policy = load_policy(arguments.policy)
    schedules = [*planned(policy), *chosen(Path(arguments.results), "learned")]
    worker = worker_of(policy, arguments.model, arguments.seed)
    for index, schedule in enumerate(schedules):
        errors = errors_of(worker, schedule, arguments.num_samples)
        schedule["latent_rel_l2"] = [round(float(error), 7) for error in errors]
        print(f"measured {index + 1} of {len(schedules)} schedules", flush=True)
    spec = policy.spec
    return {
        "model": Path(arguments.model).name,
        "model_hash": spec.model_hash,
        "trace_digest": spec.trace_digest,
        "sites": list(spec.sites),
        "steps": spec.steps,
        "sampler": spec.sampler,
        "guidance": spec.guidance,
        "seed": arguments.seed,
        "num_samples": arguments.num_samples,
        "machine": describe_machine(worker.device),
        "date": datetime.now(UTC).date().isoformat(),
        "schedules": schedules,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="digits", help="model, as for jobs/evaluate.py")
    parser.add_argument("--policy", required=True, help="folder of the policy")
    parser.add_argument("--results", required=True, help="folder of an evaluation of the policy")
    parser.add_argument("--num-samples", type=int, default=64, help="samples of each schedule")
    parser.add_argument("--seed", type=int, default=21, help="seed of the evaluation noise")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    arguments = parser.parse_args()
    text = json.dumps(measure(arguments))
    # One line for each schedule, so that a diff shows which schedule changed.
    text = text.replace('{"source"', '\n{"source"') + "\n"
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(text)


if __name__ == "__main__":
    main()
