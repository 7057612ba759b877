"""Collect traces: sample under randomised reuse, log every gate and what the reuse did.

    python jobs/collect.py --model digits --out runs/traces --num-trajectories 192
    python jobs/collect.py --model digits --out s3://bucket/traces
    python jobs/collect.py --model digits --out runs/near --designs near-policy --policy runs/policy
    ray job submit --working-dir . -- python jobs/collect.py --model digits --out /shared/traces \\
        --tracking-uri http://HEAD:5000

The same command again resumes; another plan into the same folder is refused. Units that fail are
tried on another worker, then put aside: the others are collected, and the exit code is 1.
"""

import argparse
import math
import sys

from pipeline.cli import (
    AUTO,
    JobParser,
    add_cluster_flags,
    add_tracking_flags,
    enter,
    gains,
    size_or_auto,
    split_names,
    whole_numbers,
)
from pipeline.storage.output_checks import refuse_relative_inside_job

BATCH_SIZE = 48


def run(arguments: argparse.Namespace) -> int:
    refuse_relative_inside_job(out=arguments.out, policy=arguments.policy)
    from pipeline.cluster.config import config_of
    from pipeline.collect.driver import plan_for
    from pipeline.collect.run import collect_traces
    from pipeline.collect.unit_size import choose_unit_size
    from pipeline.exploration.near_policy import find_reference_policy
    from pipeline.storage.object_store import open_storage
    from pipeline.traces.commit import claim_output
    from pipeline.tracking import Tracker, resolve_tracking_uri

    pool = config_of(arguments)
    reference_policy = find_reference_policy(arguments.policy, arguments.designs)
    plan = plan_for(
        arguments.model,
        reference_policy=reference_policy,
        guidance_scale=arguments.guidance_scale,
        num_trajectories=arguments.num_trajectories,
        batch_size=BATCH_SIZE if arguments.batch_size == AUTO else arguments.batch_size,
        steps=arguments.steps,
        sampler=arguments.sampler,
        sites=None if arguments.sites is None else split_names(arguments.sites),
        designs=arguments.designs,
        forecast_orders=orders_of(arguments.forecast_orders),
        feedbacks=None if arguments.feedback is None else gains("--feedback", arguments.feedback),
        dtype=arguments.dtype,
        seed=arguments.seed,
    )
    resolve_tracking_uri(arguments.tracking_uri)
    storage = open_storage(arguments.out)
    storage.refuse_unwritable()
    if arguments.batch_size == AUTO:
        plan = choose_unit_size(plan, storage, pool)
    claim_output(storage, plan)
    tracker = Tracker(arguments.tracking_uri, arguments.experiment)
    lineage = reference_policy.spec.lineage if reference_policy else {}
    collect_traces(plan, storage, pool, tracker, arguments.compact_mb, lineage)
    return 0


def parser() -> JobParser:
    job = JobParser("Collect traces under randomised reuse decisions.")
    job.add_argument("--model", required=True, help="digits, a diffusers folder, or a hub id")
    job.add_argument("--out", required=True, help="folder of the dataset, shared by all workers")
    job.add_argument("--num-trajectories", type=int, default=512, help="randomised trajectories")
    job.add_argument("--steps", type=int, help="sampling steps; default: the policy's, or 50")
    job.add_argument(
        "--guidance-scale", type=float, help="default: the policy's, or what the model recommends"
    )
    job.add_argument("--sampler", choices=["ddim", "dpm"], help="default: the policy's, or ddim")
    job.add_argument("--sites", help="attn, or attn,ff, or block; default: the policy's, or attn")
    job.add_argument(
        "--designs",
        default="paced",
        help="exploration designs with their shares, such as paced:3,regular:1",
    )
    job.add_argument(
        "--policy",
        metavar="FOLDER",
        help="policy that plans, or its URI: what --designs near-policy explores around, on noise "
        "that no other round saw",
    )
    job.add_argument(
        "--forecast-orders",
        help="what a reuse shows, in turns: the cached value (0), or its forecast of order 1 or "
        "2; default: the policy's, or 0,1,2",
    )
    job.add_argument(
        "--feedback",
        help="gains of error feedback, in turns: the share of what reuse left out that the next "
        "computation makes up for; default: the policy's, or 0,0.5",
    )
    job.add_argument(
        "--batch-size",
        type=size_or_auto,
        default=BATCH_SIZE,
        help="trajectories of a unit, or auto: measured, so that a unit takes 1 to 2 minutes",
    )
    job.add_argument("--dtype", choices=["fp32", "fp16", "bf16"], default="fp32", help="arithmetic")
    job.add_argument("--seed", type=int, default=0, help="seed of noise and coins")
    job.add_argument(
        "--compact-mb",
        type=megabytes,
        default=100.0,
        help="merge shards afterwards into files of about this size; 0 leaves them",
    )
    add_cluster_flags(job)
    add_tracking_flags(job)
    return job


def orders_of(text: str | None) -> tuple[int, ...] | None:
    return None if text is None else whole_numbers("--forecast-orders", text)


def megabytes(text: str) -> float:
    size = float(text)
    if not 0 <= size < math.inf:
        raise ValueError(text)
    return size


if __name__ == "__main__":
    sys.exit(enter(parser(), run))
