"""Fit a reuse policy on traces and write it as a small folder.

python jobs/train.py --traces runs/traces --out runs/policy
python jobs/train.py --traces runs/traces --out runs/full --features full
python jobs/train.py --traces runs/traces --traces runs/near --out runs/second
"""

import sys

from pipeline.cli import run_job
from pipeline.errors import input_errors, work_errors
from pipeline.storage.path_checks import refuse_odd_paths
from pipeline.train.flags import TrainFlags

FLAGS = TrainFlags


def run(flags: TrainFlags) -> int:
    refuse_odd_paths(out=flags.out, config=flags.config)
    for uri in flags.traces:
        refuse_odd_paths(traces=uri)
    from pipeline.storage.output_folder import published, refuse_taken
    from pipeline.traces.multi_dataset import open_traces
    from pipeline.tracking import Tracker, settle_earlier
    from pipeline.train.config import settings_of, sites_of, train_config
    from pipeline.train.run import train_policy

    with input_errors():
        config = train_config(flags)
    if settle_earlier(flags, "policy.json"):
        return 0
    traces = open_traces(tuple(flags.traces))
    # Refused before anything is written.
    sites, settings = sites_of(config, traces), settings_of(config, traces)
    refuse_taken(flags.out, "policy.json")
    traces.verify()
    tracker = Tracker.of(flags)
    print(line_of(flags, traces, sites, settings), flush=True)
    with work_errors(), published(flags.out, "policy.json") as folder:
        train_policy(config, traces, str(folder), tracker)
    tracker.settle()
    return 0


def line_of(flags: TrainFlags, traces, sites, settings) -> str:
    """Return the line of what is learned from, and why."""
    from pipeline.choices import choices_line, traced, unless_default

    first = traces.parts[0].plan
    values = {
        "model": f"{first['model']} with digest {first['model_hash']}",
        "steps": first["steps"],
        "sites": sites,
        "forecast_orders": sorted({order for order, _ in settings}),
        "error_feedback": sorted({gain for _, gain in settings}),
        "features": flags.features,
        "seed": flags.seed,
    }
    given = {name: getattr(flags, name, None) for name in values}
    given["features"] = unless_default(flags.features, "schedule")
    given["seed"] = unless_default(flags.seed, 0)
    follows = ("model", "steps", "sites", "forecast_orders", "error_feedback")
    return choices_line("train", traced(values, given, dict.fromkeys(follows, "traces")))


def main() -> int:
    return run_job(FLAGS, run, name="train.py")


if __name__ == "__main__":
    sys.exit(main())
