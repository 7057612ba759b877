"""Compare reuse methods on the same unseen noise samples.

    python jobs/evaluate.py --model digits --policy runs/policy --out runs/results
    python jobs/evaluate.py --model digits --policy runs/policy --policy second=runs/second \\
        --out runs/results --methods interval,learned --num-samples 320
"""

import sys

from pipeline.cli import run_job
from pipeline.errors import input_errors
from pipeline.evaluate.flags import EvaluateFlags
from pipeline.storage.output_checks import refuse_relative_inside_job

FLAGS = EvaluateFlags


def run(flags: EvaluateFlags) -> int:
    refuse_relative_inside_job(out=flags.out, config=flags.config)
    for policy in flags.policy:
        refuse_relative_inside_job(policy=policy.rpartition("=")[2])
    from pipeline.cluster.config import cluster_config
    from pipeline.evaluate.config import comparison_of, evaluate_config, read_paper_settings
    from pipeline.evaluate.policies import load_policies, refuse_misfits
    from pipeline.evaluate.run import evaluate_methods
    from pipeline.methods.registry import refuse_unknown, refuse_unserved
    from pipeline.models.loading import refuse_unloadable
    from pipeline.models.model_info import find_model, refuse_too_many_steps
    from pipeline.storage.output_folder import fetched_policies, published, refuse_taken
    from pipeline.tracking import Tracker

    with input_errors():
        paper = read_paper_settings(flags.config)
    refuse_unknown(flags.methods, paper.methods)
    info = find_model(flags.model)
    with fetched_policies(flags.policy) as folders:
        policies = load_policies(folders, info)
    with input_errors():
        config = evaluate_config(flags, paper, info, next(iter(policies.values()), None))
    refuse_too_many_steps(info, config.steps)
    refuse_unserved(flags.methods, info)
    refuse_unloadable(info, config.sampler, config.steps)
    refuse_misfits(config, policies, allow_greedy=paper.greedy_policies)
    with input_errors():
        comparison = comparison_of(flags, paper, policies)
    refuse_taken(flags.out, "results.json")
    tracker = Tracker(flags.tracking.tracking_uri, flags.tracking.experiment)
    with published(flags.out, "results.json") as folder:
        cluster = cluster_config(flags.cluster)
        evaluate_methods(config, comparison, cluster, str(folder), tracker)
    return 0


def main() -> int:
    return run_job(FLAGS, run, name="evaluate.py")


if __name__ == "__main__":
    sys.exit(main())
