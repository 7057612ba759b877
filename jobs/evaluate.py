"""Compare reuse methods on the same unseen noise: learned, threshold, regular, fewer steps.

    python jobs/evaluate.py --model digits --policy runs/policy --out runs/results
    python jobs/evaluate.py --model digits --policy full=runs/policy --policy plan=runs/schedule \\
        --out runs/results --methods interval,learned --num-samples 320
"""

import argparse
import sys

from pipeline.door import (
    JobParser,
    Refusal,
    add_fleet_flags,
    add_tracking_flags,
    checked,
    enter,
    refuse_relative_inside_job,
    split_names,
)


def run(arguments: argparse.Namespace) -> int:
    refuse_relative_inside_job(out=arguments.out)
    for flag in arguments.policy:
        refuse_relative_inside_job(policy=flag.rpartition("=")[2])
    from pipeline.evaluate import Contest
    from pipeline.evaluation_run import evaluate_methods, load_policies, refuse_policies_apart
    from pipeline.fleet import FleetConfig
    from pipeline.methods import GRIDS, METHODS
    from pipeline.models import find_model
    from pipeline.tasks import EvaluateConfig
    from pipeline.tracking import Tracker

    methods = split_names(arguments.methods)
    if unknown := set(methods) - set(METHODS):
        raise Refusal(
            f"--methods must be among {', '.join(METHODS)}. Got {sorted(unknown)}. "
            "Check the spelling."
        )
    card = find_model(arguments.model)
    policies = load_policies(arguments.policy, card)
    trained_for = next(iter(policies.values())).spec if policies else None

    def given(flag, of_policy, otherwise):
        if flag is not None:
            return flag
        return otherwise if trained_for is None else of_policy(trained_for)

    config = checked(
        EvaluateConfig,
        model=arguments.model,
        steps=given(arguments.steps, lambda spec: spec.steps, 50),
        guidance_scale=given(
            arguments.guidance_scale, lambda spec: spec.guidance, card.guidance_scale
        ),
        sampler=given(arguments.sampler, lambda spec: spec.sampler, "ddim"),
        sites=split_names(given(arguments.sites, lambda spec: ",".join(spec.sites), "attn")),
        num_samples=arguments.num_samples,
        batch_size=arguments.batch_size,
        dtype=arguments.dtype,
        seed=arguments.seed,
    )
    refuse_policies_apart(config, policies)
    fleet = checked(
        FleetConfig,
        workers=arguments.workers,
        gpus_per_worker=arguments.gpus_per_worker,
        accelerator_type=arguments.accelerator_type,
    )
    tracker = Tracker(arguments.tracking_uri, arguments.experiment)
    contest = Contest(methods=methods, policies=policies, grid=GRIDS[arguments.grid])
    evaluate_methods(config, contest, fleet, arguments.out, tracker)
    return 0


def parser() -> JobParser:
    job = JobParser("Compare reuse methods on the same unseen noise.")
    job.add_argument("--model", required=True, help="digits, a diffusers folder, or a hub id")
    job.add_argument(
        "--policy", action="append", default=[], metavar="[NAME=]FOLDER", help="policy; repeatable"
    )
    job.add_argument("--out", required=True, help="results folder to write")
    job.add_argument(
        "--methods",
        default="baseline,fewer-steps,interval,linear,threshold,static,learned",
        help="what to compare; also threshold-tuned",
    )
    job.add_argument("--num-samples", type=int, default=64, help="unseen samples of each point")
    job.add_argument("--steps", type=int, help="sampling steps; default: the policy's, or 50")
    job.add_argument("--guidance-scale", type=float, help="default: the policy's, or the model's")
    job.add_argument("--sampler", choices=["ddim", "dpm"], help="default: the policy's, or ddim")
    job.add_argument("--sites", help="attn, or attn,ff; default: the policy's")
    job.add_argument("--seed", type=int, default=0, help="seed of the evaluation noise")
    job.add_argument("--batch-size", type=int, default=32, help="samples side by side")
    job.add_argument("--dtype", choices=["fp32", "fp16", "bf16"], default="fp32", help="arithmetic")
    job.add_argument("--grid", choices=["fine", "coarse"], default="fine", help="points of a sweep")
    add_fleet_flags(job)
    add_tracking_flags(job)
    return job


if __name__ == "__main__":
    sys.exit(enter(parser(), run))
