"""Sample images with DQAR, and reference samples without reuse, in one process.

    python jobs/sample.py --model digits --class-labels 1,2,3 --out runs/samples
    python jobs/sample.py --model digits --policy runs/policy --out runs/samples
    python jobs/sample.py --model digits --plan runs/results/plans/NAME.json --out runs/samples
    python jobs/sample.py --model facebook/DiT-XL-2-256 --config configs/default.yaml \\
        --num-samples 8 --dtype fp16 --out runs/samples
"""

import sys
from dataclasses import replace
from pathlib import Path

from pipeline.cli import run_job
from pipeline.errors import input_errors, work_errors
from pipeline.models.sampling_choices import DTYPE, SAMPLER, STEPS, canonical_sampler
from pipeline.redaction import typed_command
from pipeline.sample.flags import SampleFlags
from pipeline.storage.output_checks import refuse_other_files, refuse_unwritable
from pipeline.storage.path_checks import refuse_odd_paths

FLAGS = SampleFlags
SHOWN = ("guidance_scale", "steps", "sampler", "sites", "dtype")


def run(flags: SampleFlags) -> int:
    refuse_odd_paths(
        out=flags.out,
        model=flags.model,
        config=flags.config,
        policy=flags.policy,
        plan=flags.plan,
    )
    from pipeline.choices import guidance_source, sampling_line, unless_default
    from pipeline.evaluate.policies import refuse_other_runs
    from pipeline.models.loading import load_model, pick_device, refuse_unloadable
    from pipeline.models.model_info import find_model, refuse_too_many_steps
    from pipeline.sample.run import sample_images
    from pipeline.sample.sample import refuse_misfit, refuse_unknown_labels
    from pipeline.tracking import Tracker, resolve_tracking_uri, settle_earlier

    if settle_earlier(flags, "sample.json"):
        return 0
    info = find_model(flags.model)
    uri = resolve_tracking_uri(flags.tracking.tracking_uri)
    policy = load_fitting_policy(flags.policy, info, uri)
    plan, spec = load_given_plan(flags.plan, info, uri)
    config = configure(flags, info, policy.spec if policy else spec, policy, plan)
    refuse_too_many_steps(info, config.steps)
    refuse_unloadable(info, config.sampler, config.steps)
    refuse_misfit(info, config, plan)
    refuse_other_runs(config.steps, config.sampler, {} if policy is None else {"learned": policy})
    refuse_unknown_labels(info, config.class_labels)
    refuse_other_files(flags.out, "sample.json")
    refuse_unwritable(flags.out)
    model = load_model(info, sampler=config.sampler, dtype=config.dtype, device=pick_device())
    tracker = Tracker.of(flags)
    follows = "policy" if policy else "plan" if plan else None
    guidance = (
        "policy" if policy or spec else guidance_source(is_recorded=info.is_guidance_recorded)
    )
    reuse = "config" if flags.config else follows
    sources = dict.fromkeys(("steps", "sampler"), follows)
    sources |= {"guidance_scale": guidance, "sites": reuse}
    given = {name: getattr(flags, name) for name in SHOWN}
    given["dtype"] = unless_default(flags.dtype, DTYPE)
    values = {name: getattr(config, name, None) for name in SHOWN} | {"sites": config.dqar.sites}
    print(sampling_line("sample", flags.model, info.model_hash, values, given, sources), flush=True)
    command = typed_command("sample.py")
    with work_errors():
        sample_images(config, model, policy, Path(flags.out), tracker, command, plan)
    tracker.settle()
    return 0


def load_fitting_policy(folder: str | None, info, tracking_uri: str):
    """Load the policy of --policy, which must be trained for the model; None without the flag."""
    if folder is None:
        return None
    from pipeline.evaluate.policies import load_policies
    from pipeline.storage.output_folder import fetched_policies

    with fetched_policies([folder], tracking_uri) as folders:
        return next(iter(load_policies(folders, info).values()))


def load_given_plan(path: str | None, info, tracking_uri: str):
    """Load the plan of --plan, and the description of the policy if --plan names one; None without
    the flag. A policy must be trained for the model."""
    from dqar.hub_files import is_on_hub
    from dqar.registry import is_registered, local_folder
    from dqar.schedules.policy_plan import plan_of_policy
    from dqar.schedules.serialization import PLAN, load_plan
    from pipeline.storage.output_folder import fetched_file

    if path is None:
        return None, None
    if is_on_hub(path) or Path(path).is_dir():
        with input_errors(), local_folder(path) as folder:
            if (folder / PLAN).is_file():
                return load_plan(folder), None
    if is_registered(path) or Path(path).is_dir():
        policy = load_fitting_policy(path, info, tracking_uri)
        assert policy is not None
        with input_errors():
            return plan_of_policy(policy), policy.spec
    with fetched_file(path) as file, input_errors():
        return load_plan(file), None


def configure(flags: SampleFlags, info, described, policy, plan):
    """Return the settings; a flag left out follows the policy or the plan, else the model.

    Args:
        described: description of the policy of --policy or --plan; None for neither.
    """
    from dqar.policy.spec import PolicySpec
    from dqar.sampler_names import sampler_of_plan
    from pipeline.sample.sample import SampleConfig

    labels = flags.class_labels or ()
    spec = described or PolicySpec()
    follows = {
        "steps": (plan.steps if plan else spec.steps) or STEPS,
        "guidance_scale": spec.guidance or info.guidance_scale,
        "sampler": (plan and sampler_of_plan(plan.sampler)) or spec.sampler or SAMPLER,
        "num_samples": len(labels) or 4,
    }
    given = {name: getattr(flags, name) for name in follows}
    if flags.sampler is not None:
        given["sampler"] = canonical_sampler(flags.sampler)
    with input_errors():
        return SampleConfig(
            model=flags.model,
            dqar=configure_reuse(flags, policy, plan),
            cascade=(policy is None and plan is None) or flags.config is not None,
            class_labels=labels,
            twin=not (flags.no_reference or flags.no_reuse),
            dtype=flags.dtype,
            seed=flags.seed,
            **{name: follows[name] if value is None else value for name, value in given.items()},
        )


def configure_reuse(flags: SampleFlags, policy, plan):
    """Return the configuration of reuse: that of --config, else that of the policy or the plan,
    else the default; --sites and --no-reuse change it."""
    from dqar.config import DQARConfig
    from dqar.config_file import load_config
    from dqar.gates.paper_cascade import policy_config
    from pipeline.evaluate.policies import refuse_policies_apart

    changes: dict[str, object] = {} if flags.sites is None else {"sites": flags.sites}
    if flags.no_reuse:
        changes["enabled"] = False
    with input_errors():
        if flags.config is not None:
            config = load_config(flags.config)
        elif plan is not None:
            config = plan.config()
        else:
            config = DQARConfig() if policy is None else policy_config(policy.spec)
        config = replace(config, **changes)
    refuse_policies_apart(config, {} if policy is None else {"learned": policy})
    return config


def main() -> int:
    return run_job(FLAGS, run, name="sample.py")


if __name__ == "__main__":
    sys.exit(main())
