"""Compare reuse methods on the same unseen noise samples.

    python jobs/evaluate.py --model digits --policy runs/policy --out runs/results
    python jobs/evaluate.py --model digits --policy full=runs/policy --policy plan=runs/schedule \\
        --out runs/results --methods interval,learned --num-samples 320
"""

import argparse
import sys

from pipeline.cli import JobParser, add_cluster_flags, add_tracking_flags, enter, split_names
from pipeline.errors import checked
from pipeline.storage.output_checks import refuse_relative_inside_job


def run(arguments: argparse.Namespace) -> int:
    refuse_relative_inside_job(out=arguments.out)
    for flag in arguments.policy:
        refuse_relative_inside_job(policy=flag.rpartition("=")[2])
    from pipeline.cluster.config import config_of
    from pipeline.evaluate.policies import load_policies, refuse_other_runs, refuse_policies_apart
    from pipeline.evaluate.run import evaluate_methods
    from pipeline.methods.base import GRIDS, Comparison
    from pipeline.methods.registry import refuse_unknown, refuse_unserved
    from pipeline.models.model_info import find_model, refuse_too_many_steps
    from pipeline.storage.output_folder import fetched_policies, published, refuse_taken
    from pipeline.tracking import Tracker

    methods = split_names(arguments.methods)
    refuse_unknown(methods)
    info = find_model(arguments.model)
    with fetched_policies(arguments.policy) as folders:
        policies = load_policies(folders, info)
    config = configure(arguments, info, next(iter(policies.values()), None))
    refuse_too_many_steps(info, config.steps)
    refuse_unserved(methods, info)
    refuse_other_runs(config.steps, config.sampler, policies)
    for name, policy in policies.items():
        shown = {"order": policy.spec.forecast_order, "feedback": policy.spec.feedback}
        followed = checked(config.with_reuse_setting, **shown)
        refuse_policies_apart(followed.dqar_config(), {name: policy})
    comparison = checked(
        Comparison,
        methods=methods,
        policies=policies,
        grid=GRIDS[arguments.grid],
        error_budget=arguments.error_budget,
    )
    pool = config_of(arguments)
    refuse_taken(arguments.out, "results.json")
    tracker = Tracker(arguments.tracking_uri, arguments.experiment)
    with published(arguments.out, "results.json") as folder:
        evaluate_methods(config, comparison, pool, str(folder), tracker)
    return 0


def configure(arguments: argparse.Namespace, info, policy):
    """The evaluation's settings; flags left out follow the first policy, else the model."""
    from pipeline.evaluate.config import EvaluateConfig

    follows = {
        "steps": policy.spec.steps if policy else 50,
        "guidance_scale": policy.spec.guidance if policy else info.guidance_scale,
        "sampler": policy.spec.sampler if policy else "ddim",
        "sites": ",".join(policy.spec.sites) if policy else "attn",
    }
    given = {name: getattr(arguments, name) for name in follows}
    chosen = {name: follows[name] if value is None else value for name, value in given.items()}
    return checked(
        EvaluateConfig,
        model=arguments.model,
        num_samples=arguments.num_samples,
        batch_size=arguments.batch_size,
        dtype=arguments.dtype,
        cached=arguments.cached,
        cache_bits=arguments.cache_bits,
        cache_granularity=arguments.cache_granularity,
        quantize_keys=not arguments.keep_keys,
        balanced=arguments.balanced,
        cross_branch_threshold=arguments.cross_branch_threshold,
        seed=arguments.seed,
        part_samples=arguments.part_samples,
        **chosen | {"sites": split_names(chosen["sites"])},
    )


def parser() -> JobParser:
    job = JobParser("Compare reuse methods on the same unseen noise samples.")
    job.epilog = "The --ablations of the DQAR paper's evaluate.py are jobs/sweep.py ablations."
    job.add_argument("--model", required=True, help="digits, a diffusers folder, or a hub id")
    job.add_argument(
        "--policy",
        action="append",
        default=[],
        metavar="[NAME=]FOLDER",
        help="policy, or its URI; repeatable",
    )
    job.add_argument("--out", required=True, help="results folder to write, or its URI")
    job.add_argument(
        "--methods",
        default="baseline,fewer-steps,interval,interval-forecast2,linear,threshold,static,learned",
        help="what to compare; also threshold-tuned, interval-forecast1, smoothcache, "
        "smoothcache-tied, router, fewer-steps-dpmsolver",
    )
    job.add_argument("--num-samples", type=int, default=64, help="unseen samples of each point")
    job.add_argument("--steps", type=int, help="sampling steps; default: the policy's, or 50")
    job.add_argument("--guidance-scale", type=float, help="default: the policy's, or the model's")
    job.add_argument("--sampler", choices=["ddim", "dpm"], help="default: the policy's, or ddim")
    job.add_argument("--sites", help="attn, or attn,ff, or block; default: the policy's")
    job.add_argument("--seed", type=int, default=0, help="seed of the evaluation noise")
    job.add_argument("--batch-size", type=int, default=32, help="samples side by side")
    job.add_argument(
        "--part-samples",
        type=int,
        default=1024,
        help="samples of a point that one worker measures at a time, in whole batches",
    )
    job.add_argument("--dtype", choices=["fp32", "fp16", "bf16"], default="fp32", help="arithmetic")
    job.add_argument(
        "--cached", choices=["output", "kv"], default="output", help="what attn caches"
    )
    job.add_argument(
        "--cache-bits", type=int, choices=[2, 4, 8, 16, 32], default=8, help="of a cached value"
    )
    job.add_argument(
        "--cache-granularity",
        choices=["per_tensor", "per_channel", "per_head"],
        default="per_tensor",
        help="of an integer cache's scales",
    )
    job.add_argument("--keep-keys", action="store_true", help="keep cached keys in fp16 (K16/V8)")
    job.add_argument("--balanced", action="store_true", help="balance channels by salience (CSB)")
    job.add_argument(
        "--cross-branch-threshold",
        type=float,
        metavar="DISTANCE",
        help="relative L2 of the branches at which one is computed for both; default: never",
    )
    job.add_argument(
        "--error-budget",
        type=float,
        metavar="ERROR",
        help="relative L2 error within which each policy is to save the most, judged on "
        "calibration noise: one more point of its sweep; default: none",
    )
    job.add_argument("--grid", choices=["fine", "coarse"], default="fine", help="points of a sweep")
    add_cluster_flags(job)
    add_tracking_flags(job)
    return job


if __name__ == "__main__":
    sys.exit(enter(parser(), run))
