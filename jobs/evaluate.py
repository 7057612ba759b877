"""Compare reuse methods on the same unseen noise samples.

    python jobs/evaluate.py --model digits --policy runs/policy --out runs/results
    python jobs/evaluate.py --model digits --policy runs/policy --policy second=runs/second \\
        --out runs/results --methods interval,learned --num-samples 320
"""

import sys

from pipeline.cli import run_job
from pipeline.cluster.head import refuse_silent_head
from pipeline.errors import input_errors, work_errors
from pipeline.evaluate.flags import EvaluateFlags
from pipeline.models.sampling_choices import DTYPE
from pipeline.storage.path_checks import refuse_odd_paths

FLAGS = EvaluateFlags
SHOWN = ("guidance_scale", "steps", "sampler", "sites", "dtype")


def run(flags: EvaluateFlags) -> int:
    refuse_odd_paths(out=flags.out, model=flags.model, config=flags.config)
    for policy in flags.policy:
        refuse_odd_paths(policy=policy.rpartition("=")[2])
    # Before the imports of ray and torch, which take seconds.
    if not flags.tracking.resume_tracking:
        refuse_silent_head()
    from pipeline.choices import guidance_source, sampling_line, unless_default
    from pipeline.cluster.config import cluster_config
    from pipeline.evaluate.config import comparison_of, evaluate_config, read_paper_settings
    from pipeline.evaluate.policies import load_policies, refuse_misfits
    from pipeline.evaluate.run import evaluate_methods
    from pipeline.methods.registry import refuse_unknown, refuse_unserved
    from pipeline.models.loading import refuse_unloadable
    from pipeline.models.model_info import find_model, refuse_too_many_steps
    from pipeline.models.schedulers import solution_sampler
    from pipeline.storage.output_folder import fetched_policies, published, refuse_taken
    from pipeline.tracking import Tracker, resolve_tracking_uri, settle_earlier

    with input_errors():
        paper = read_paper_settings(flags.config)
    refuse_unknown(flags.methods, paper.methods)
    if settle_earlier(flags, "results.json"):
        return 0
    info = find_model(flags.model)
    uri = resolve_tracking_uri(flags.tracking.tracking_uri)
    with fetched_policies(flags.policy, uri) as folders:
        policies = load_policies(folders, info)
    with input_errors():
        config = evaluate_config(flags, paper, info, next(iter(policies.values()), None))
    refuse_too_many_steps(info, config.steps)
    refuse_unserved(flags.methods, info)
    refuse_unloadable(info, config.sampler, config.steps)
    if config.solution_steps is not None:
        refuse_too_many_steps(info, config.solution_steps, "--solution-steps")
        refuse_unloadable(info, solution_sampler(info), config.solution_steps)
    refuse_misfits(config, policies, allow_greedy=paper.greedy_policies)
    with input_errors():
        comparison = comparison_of(flags, paper, policies)
    refuse_taken(flags.out, "results.json")
    tracker = Tracker.of(flags)
    follows = "the first policy" if policies else None
    guidance = follows or guidance_source(is_recorded=info.is_guidance_recorded)
    sources = dict.fromkeys(("steps", "sampler", "sites"), follows) | {"guidance_scale": guidance}
    values = {name: getattr(config, name) for name in SHOWN}
    given = {name: getattr(flags, name) for name in SHOWN}
    given["dtype"] = unless_default(flags.dtype, DTYPE)
    print(
        sampling_line("evaluate", flags.model, info.model_hash, values, given, sources), flush=True
    )
    with work_errors(), published(flags.out, "results.json") as folder:
        cluster = cluster_config(flags.cluster)
        evaluate_methods(config, comparison, cluster, str(folder), tracker, flags.out)
    tracker.settle()
    return 0


def main() -> int:
    return run_job(FLAGS, run, name="evaluate.py")


if __name__ == "__main__":
    sys.exit(main())
