"""Draw samples with DQAR, and the same samples without, on one process.

    python jobs/sample.py --model digits --class-labels 1,2,3 --out runs/samples
    python jobs/sample.py --model digits --policy runs/policy --out runs/samples
    python jobs/sample.py --model digits --plan runs/results/plans/NAME.json --out runs/samples
    python jobs/sample.py --model facebook/DiT-XL-2-256 --config configs/default.yaml \\
        --num-samples 8 --dtype fp16 --out runs/samples

What gates: --config alone, the seed's cascade of that file; --policy alone, the policy and nothing
else; both, the cascade with the policy as its last gate; --plan alone, a schedule that an
evaluation measured; none of them, the cascade of configs/default.yaml.

The seed's scripts/run_inference.py takes --num-steps, --output-dir and --enable-dqar; here they are
--steps, --out and the default, which --no-reuse turns off.
"""

import argparse
import shlex
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

from pipeline.cli import JobParser, add_tracking_flags, enter, split_names
from pipeline.errors import InputError, checked
from pipeline.storage.output_checks import (
    refuse_other_files,
    refuse_relative_inside_job,
    refuse_unwritable,
)


def run(arguments: argparse.Namespace) -> int:
    paths = {name: getattr(arguments, name) for name in ("out", "config", "policy", "plan")}
    refuse_relative_inside_job(**paths)
    refuse_plan_beside(arguments)
    from pipeline.evaluate.policies import refuse_other_runs
    from pipeline.models.loading import load_model, pick_device
    from pipeline.models.model_info import find_model, refuse_too_many_steps
    from pipeline.sample.run import sample_images
    from pipeline.sample.sample import refuse_misfit, refuse_unknown_labels
    from pipeline.tracking import Tracker, resolve_tracking_uri

    info = find_model(arguments.model)
    policy = load_fitting_policy(arguments.policy, info)
    plan = load_given_plan(arguments.plan)
    config = configure(arguments, info, policy, plan)
    refuse_too_many_steps(info, config.steps)
    refuse_misfit(info, config, plan)
    refuse_other_runs(config.steps, config.sampler, {} if policy is None else {"learned": policy})
    refuse_unknown_labels(info, config.class_labels)
    refuse_other_files(arguments.out, "sample.json")
    refuse_unwritable(arguments.out)
    resolve_tracking_uri(arguments.tracking_uri)
    model = load_model(info, sampler=config.sampler, dtype=config.dtype, device=pick_device())
    tracker = Tracker(arguments.tracking_uri, arguments.experiment)
    command = "python jobs/sample.py " + shlex.join(sys.argv[1:])
    sample_images(config, model, policy, Path(arguments.out), tracker, command, plan)
    return 0


def load_fitting_policy(folder: str | None, info):
    """The policy of --policy, if it knows this model; None without the flag."""
    if folder is None:
        return None
    from pipeline.evaluate.policies import load_policies

    return next(iter(load_policies([folder], info).values()))


def load_given_plan(path: str | None):
    """The plan of --plan; None without the flag."""
    if path is None:
        return None
    from dqar.schedules.serialization import load_plan

    return checked(load_plan, path=path)


def refuse_plan_beside(arguments: argparse.Namespace) -> None:
    """A plan decides alone, at its own sites."""
    others = [
        name for name in ("policy", "config", "sites") if getattr(arguments, name) is not None
    ]
    if arguments.plan is not None and others:
        raise InputError(
            "--plan must come without --policy, --config and --sites. Got "
            f"{' and '.join(f'--{name}' for name in others)}. Leave out the one or the other."
        )


def configure(arguments: argparse.Namespace, info, policy, plan):
    """What was left out follows the policy or the plan, else the model."""
    from dqar.policy.spec import PolicySpec
    from pipeline.sample.sample import SampleConfig

    labels = parse_labels(arguments.class_labels)
    spec = policy.spec if policy else PolicySpec()
    follows = {
        "steps": (plan.steps if plan else spec.steps) or 50,
        "guidance_scale": spec.guidance or info.guidance_scale,
        "sampler": ("dpm" if plan and "DPM" in plan.sampler else spec.sampler) or "ddim",
        "num_samples": len(labels) or 4,
    }
    given = {name: getattr(arguments, name) for name in follows}
    return checked(
        SampleConfig,
        model=arguments.model,
        dqar=configure_reuse(arguments, policy, plan),
        cascade=(policy is None and plan is None) or arguments.config is not None,
        class_labels=labels,
        twin=not (arguments.no_twin or arguments.no_reuse),
        dtype=arguments.dtype,
        seed=arguments.seed,
        **{name: follows[name] if value is None else value for name, value in given.items()},
    )


def configure_reuse(arguments: argparse.Namespace, policy, plan):
    """The configuration of --config, else the policy's or the plan's, else the default; then the
    flags."""
    from dqar.config import DQARConfig
    from dqar.config_file import load_config
    from dqar.gates.paper_cascade import policy_config
    from pipeline.evaluate.policies import refuse_policies_apart

    if arguments.config is not None:
        config = checked(load_config, path=arguments.config)
    elif plan is not None:
        config = checked(plan.config)
    else:
        config = DQARConfig() if policy is None else policy_config(policy.spec)
    changes = {}
    if arguments.sites is not None:
        changes["sites"] = split_names(arguments.sites)
    if arguments.no_reuse:
        changes["enabled"] = False
    config = checked(partial(replace, config), **changes)
    refuse_policies_apart(config, {} if policy is None else {"learned": policy})
    return config


def parse_labels(text: str | None) -> tuple[int, ...]:
    """``"1,2,3"`` to classes; none without the flag."""
    if text is None:
        return ()
    names = split_names(text)
    try:
        labels = tuple(map(int, names))
    except ValueError:
        labels = ()
    if not labels:
        raise InputError(
            f"--class-labels must be whole numbers with commas. Got {text!r}. Pass 1,2,3."
        )
    return labels


def parser() -> JobParser:
    job = JobParser(
        "Draw samples with DQAR, and the same samples without. The seed's --num-steps, "
        "--output-dir and --enable-dqar are --steps, --out and the default."
    )
    job.add_argument("--model", required=True, help="digits, a diffusers folder, or a hub id")
    job.add_argument("--out", required=True, help="folder to write (the seed's --output-dir)")
    what = job.add_mutually_exclusive_group()
    what.add_argument("--class-labels", metavar="1,2,3", help="the class of each sample")
    what.add_argument("--num-samples", type=int, help="samples of drawn classes; default: 4")
    job.add_argument(
        "--steps",
        type=int,
        help="the seed's --num-steps; default: the policy's or the plan's, or 50",
    )
    job.add_argument(
        "--guidance-scale",
        type=float,
        help="default: the policy's, or the model's; a plan does not say its own",
    )
    job.add_argument(
        "--sampler", choices=["ddim", "dpm"], help="default: the policy's or the plan's, or ddim"
    )
    job.add_argument(
        "--config",
        metavar="YAML",
        help="thresholds, cache and layer schedule; default: configs/default.yaml's values",
    )
    job.add_argument(
        "--policy",
        metavar="FOLDER",
        help="gates by this policy alone; with --config, as the last gate of its cascade",
    )
    job.add_argument(
        "--plan", metavar="JSON", help="follow this plan alone, such as one of an evaluation's"
    )
    job.add_argument(
        "--no-reuse",
        action="store_true",
        help="close every gate: the stock model's samples (the seed without --enable-dqar)",
    )
    job.add_argument("--no-twin", action="store_true", help="leave out the samples without reuse")
    job.add_argument(
        "--sites", help="attn, or attn,ff, or block; default: --config's, or the policy's"
    )
    job.add_argument("--seed", type=int, default=0, help="seed of the noise")
    job.add_argument("--dtype", choices=["fp32", "fp16", "bf16"], default="fp32", help="arithmetic")
    add_tracking_flags(job)
    return job


if __name__ == "__main__":
    sys.exit(enter(parser(), run))
