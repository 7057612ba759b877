"""Fit a reuse policy on traces and write it as a small folder.

python jobs/train.py --traces runs/traces --out runs/policy
python jobs/train.py --traces runs/traces --out runs/full --features full
python jobs/train.py --traces runs/traces --traces runs/near --out runs/second
"""

import argparse
import sys

from pipeline.cli import JobParser, add_tracking_flags, enter, gains, split_names, whole_numbers
from pipeline.errors import checked
from pipeline.storage.output_checks import refuse_relative_inside_job


def run(arguments: argparse.Namespace) -> int:
    uris = tuple(arguments.traces)
    refuse_relative_inside_job(out=arguments.out)
    for uri in uris:
        refuse_relative_inside_job(traces=uri)
    from pipeline.storage.output_folder import published, refuse_taken
    from pipeline.traces.multi_dataset import open_traces
    from pipeline.tracking import Tracker
    from pipeline.train.config import TrainConfig, settings_of, sites_of
    from pipeline.train.run import train_policy

    config = checked(
        TrainConfig,
        features=arguments.features,
        without=split_names(arguments.without),
        label=arguments.label,
        sites=split_names(arguments.sites or ""),
        forecast_orders=whole_numbers("--forecast-orders", arguments.forecast_orders),
        feedbacks=gains("--feedback", arguments.feedback),
        seed=arguments.seed,
    )
    traces = open_traces(uris)
    # Refused before anything is written.
    sites_of(config, traces)
    settings_of(config, traces)
    refuse_taken(arguments.out, "policy.json")
    tracker = Tracker(arguments.tracking_uri, arguments.experiment)
    with published(arguments.out, "policy.json") as folder:
        train_policy(config, traces, str(folder), tracker)
    return 0


def parser() -> JobParser:
    job = JobParser("Fit a reuse policy on traces.")
    job.epilog = (
        "The seed's train_policy.py: its --data-path is --traces, its --output-dir is --out; its "
        "--num-epochs has no counterpart: the fit ends by itself."
    )
    job.add_argument(
        "--traces",
        action="append",
        required=True,
        help="folder or URI that jobs/collect.py wrote; repeatable: collections of one model, such "
        "as a first round and one near its policy, are fitted together",
    )
    job.add_argument("--out", required=True, help="policy folder to write, or its URI")
    job.add_argument(
        "--features", choices=["seed", "schedule", "full"], default="schedule", help="feature set"
    )
    job.add_argument("--without", default="", help="features of the set to leave out: an ablation")
    job.add_argument("--label", choices=["final", "local"], default="final", help="what to learn")
    job.add_argument("--sites", help="sites to learn; default: those of the traces")
    job.add_argument(
        "--forecast-orders",
        default="",
        help="what plans may show at a reuse, such as 0 for the cached value alone; default: "
        "whichever of the traces' orders is predicted to err least",
    )
    job.add_argument(
        "--feedback",
        default="",
        help="gains of error feedback that plans may have, such as 0 for none; default: whichever "
        "of the traces' gains is predicted to err least",
    )
    job.add_argument("--seed", type=int, default=0, help="seed of the weights")
    add_tracking_flags(job)
    return job


if __name__ == "__main__":
    sys.exit(enter(parser(), run))
