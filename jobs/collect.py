"""Collect traces: sample under randomised reuse, log every decision and the error it caused.

    python jobs/collect.py --model digits --out runs/traces --num-trajectories 192
    python jobs/collect.py --model digits --out s3://bucket/traces
    python jobs/collect.py --model digits --out runs/near --exploration near-policy \\
        --explore-around runs/policy
    ray job submit --working-dir . -- python jobs/collect.py --model digits --out /shared/traces \\
        --tracking-uri http://HEAD:5000

The same command again resumes; a folder that holds another plan is refused. A unit that fails is
tried on another worker. If it fails there too, the other units are collected without it, and the
exit code is 1.
"""

import sys

from pipeline.cli import run_job
from pipeline.cluster.head import refuse_silent_head
from pipeline.collect.flags import CollectFlags
from pipeline.errors import work_errors
from pipeline.models.sampling_choices import DTYPE
from pipeline.storage.path_checks import refuse_odd_paths

FLAGS = CollectFlags
SHOWN = ("guidance_scale", "steps", "sampler", "sites", "dtype", "forecast_orders", "feedbacks")


def run(flags: CollectFlags) -> int:
    refuse_odd_paths(out=flags.out, model=flags.model, explore_around=flags.explore_around)
    # Before the imports of ray and torch, which take seconds.
    if not flags.tracking.resume_tracking:
        refuse_silent_head()
    from pipeline.choices import guidance_source, sampling_line, unless_default
    from pipeline.cluster.config import cluster_config
    from pipeline.collect.driver import plan_for
    from pipeline.collect.run import collect_traces
    from pipeline.collect.unit_size import choose_unit_size
    from pipeline.exploration.near_policy import find_reference_policy
    from pipeline.models.model_info import find_model
    from pipeline.storage.object_store import open_storage
    from pipeline.traces.commit import claim_output, is_claimed
    from pipeline.tracking import Tracker, resolve_tracking_uri, settle_earlier

    cluster = cluster_config(flags.cluster)
    storage = open_storage(flags.out)
    if settle_earlier(flags, "plan.json"):
        return 0
    reference_policy = find_reference_policy(
        flags.explore_around, flags.exploration, resolve_tracking_uri(flags.tracking.tracking_uri)
    )
    plan = plan_for(flags.model, reference_policy=reference_policy, **flags.plan_fields())
    storage.refuse_unwritable()
    if flags.unit_size == "auto":
        plan = choose_unit_size(plan, storage, cluster)
    is_claimed(storage, plan)
    # Before the first file is written.
    tracker = Tracker.of(flags)
    claim_output(storage, plan)
    info = find_model(flags.model)
    given = flags.plan_fields() | {"dtype": unless_default(flags.dtype, DTYPE)}
    follows = "policy explored around" if reference_policy else None
    guidance = follows or guidance_source(is_recorded=info.is_guidance_recorded)
    sources = dict.fromkeys(SHOWN[1:], follows) | {"dtype": None} | {"guidance_scale": guidance}
    values = {name: getattr(plan, name) for name in SHOWN}
    print(
        sampling_line("collect", flags.model, info.model_hash, values, given, sources), flush=True
    )
    lineage = reference_policy.spec.lineage if reference_policy else {}
    with work_errors():
        collect_traces(plan, storage, cluster, tracker, flags.target_file_mb, lineage)
    tracker.settle()
    return 0


def main() -> int:
    return run_job(FLAGS, run, name="collect.py")


if __name__ == "__main__":
    sys.exit(main())
