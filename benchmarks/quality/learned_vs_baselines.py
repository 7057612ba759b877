"""Comparison of learned reuse with fixed schedules, thresholds and fewer steps over 5 seeds.

    python -m benchmarks.quality.learned_vs_baselines --sites attn,ff --out runs/bench-both

Collects 512 trajectories, trains each policy of ``--fits`` on them, then evaluates all methods and
policies on 64 noise samples of each seed. The tables go to standard output and to ``table.md`` in
the folder. Collections, policies and results that exist are kept.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.evaluate.result_rows import read_rows
from pipeline.markdown import markdown_table
from pipeline.report.frontier import Axis, error_at
from pipeline.statistics import spread_of

SEEDS = (21, 22, 23, 24, 25)
"""Random seeds of the noise samples, which neither training nor calibration uses. Development
looked at some of them: the end of a fit and the half gains were chosen after their results
(docs/LOG.md, 2026-11-22)."""
ONE_STEP = ("--config", "configs/one_step_error.yaml")
FITS = {
    "policy": (),
    "plain": ("--forecast-orders", "0"),
    "no-feedback": ("--error-feedback", "0"),
    "plain-no-feedback": ("--forecast-orders", "0", "--error-feedback", "0"),
    "local": ONE_STEP,
    "full": ("--features", "full"),
    "local-full": (*ONE_STEP, "--features", "full"),
}
"""Flags of ``jobs/train.py`` for each policy. ``policy`` is the default. Three policies leave out
forecasts, error feedback or both; ``local`` learns one-step errors and plans in the same way.
``full`` and ``local-full`` read all features and decide step by step: ``full`` learns the final
error, ``local-full`` one-step errors, as published routers do."""
METHODS = "fewer-steps,interval,interval-forecast1,interval-forecast2,threshold,threshold-tuned"
PLACES: tuple[tuple[Axis, float], ...] = (
    *(("reuse_ratio", ratio) for ratio in (0.3, 0.5, 0.7)),
    *(("flops_ratio", ratio) for ratio in (2.0, 3.0, 4.0)),
)
HEADS = {"reuse_ratio": "reuse", "flops_ratio": "FLOPs x"}


def run_job(job: str, out: Path, *flags: str) -> None:
    """Run a job as a user starts it, with MLflow's store in ``out``."""
    tracking = ("--tracking-uri", f"sqlite:///{out / 'mlflow.db'}")
    subprocess.run([sys.executable, f"jobs/{job}.py", *flags, *tracking], check=True)


def prepare(arguments: argparse.Namespace, out: Path) -> None:
    """Collect traces, and train each policy of ``--fits`` that has no file yet."""
    guidance = (
        () if arguments.guidance_scale is None else ("--guidance-scale", arguments.guidance_scale)
    )
    run_job(
        "collect",
        out,
        *("--model", arguments.model, "--sites", arguments.sites, *guidance),
        *("--out", str(out / "traces"), "--workers", arguments.workers),
        *("--num-trajectories", arguments.num_trajectories),
    )
    for name in arguments.fits.split(","):
        flags = FITS[name]
        if not (out / name / "policy.json").exists():
            run_job("train", out, "--traces", str(out / "traces"), "--out", str(out / name), *flags)


def evaluate_seed(arguments: argparse.Namespace, out: Path, seed: int) -> list[dict[str, Any]]:
    """Evaluate one seed unless its results exist; return their rows."""
    folder = out / f"results-{seed}"
    if not (folder / "results.json").exists():
        policies = [f"--policy={_flag(name, out)}" for name in arguments.fits.split(",")]
        run_job(
            "evaluate",
            out,
            *("--model", arguments.model, "--out", str(folder), "--seed", str(seed), *policies),
            *("--num-samples", arguments.num_samples, "--workers", arguments.workers),
            *("--batch-size", "64", "--config", "configs/greedy_policies.yaml"),
            *("--methods", f"{arguments.methods},learned"),
        )
    return read_rows(folder)


def _flag(name: str, out: Path) -> str:
    return str(out / name) if name == "policy" else f"{name}={out / name}"


def errors_table(by_seed: list[list[dict[str, Any]]]) -> str:
    """Mean error over seeds with a 95% interval, at equal reuse ratio or FLOPs, by method."""
    rows = [
        [name, *(_cell(errors_at(by_seed, name, axis, value)) for axis, value in PLACES)]
        for name in names_of(by_seed)
    ]
    return markdown_table(["method", *_heads()], rows)


def ratios_table(by_seed: list[list[dict[str, Any]]]) -> str:
    """Mean error of the default policy over each other method's, at equal reuse ratio or FLOPs."""
    rows = [
        [name, *(_ratio(by_seed, name, axis, value) for axis, value in PLACES)]
        for name in names_of(by_seed)
        if name != "learned"
    ]
    return markdown_table(["learned over", *_heads()], rows)


def _heads() -> list[str]:
    return [f"{HEADS[axis]} {value:g}" for axis, value in PLACES]


def names_of(by_seed: list[list[dict[str, Any]]]) -> list[str]:
    """Methods of the results in the order of their rows, without the baseline."""
    return list(dict.fromkeys(row["method"] for row in by_seed[0] if row["method"] != "baseline"))


def errors_at(
    by_seed: list[list[dict[str, Any]]], name: str, axis: Axis, value: float
) -> list[float]:
    """A method's error on each seed; empty if the sweep of a seed does not reach ``value``."""
    found = [error_at(rows, name, axis, value) for rows in by_seed]
    errors = [error for error in found if error is not None]
    return errors if len(errors) == len(by_seed) else []


def _cell(errors: list[float]) -> str:
    return spread_of(errors).shown(".4f") if errors else "-"


def _ratio(by_seed: list[list[dict[str, Any]]], name: str, axis: Axis, value: float) -> str:
    mine, theirs = (errors_at(by_seed, one, axis, value) for one in ("learned", name))
    return f"{sum(mine) / sum(theirs):.2f}x" if mine and theirs else "-"


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", required=True, help="folder of traces, policies and results")
    parser.add_argument("--model", default="digits", help="model, as for jobs/collect.py")
    parser.add_argument("--sites", default="attn,ff", help="modules whose output may be reused")
    parser.add_argument("--guidance-scale", help="default: the value that the model recommends")
    parser.add_argument("--num-trajectories", default="512", help="trajectories to train on")
    parser.add_argument("--num-samples", default="64", help="samples of each seed")
    parser.add_argument("--workers", default="2", help="workers of collection and evaluation")
    parser.add_argument("--methods", default=METHODS, help="methods to compare with learned")
    parser.add_argument("--fits", default=",".join(FITS), help="policies to train, default first")
    return parser.parse_args(argv)


def main() -> None:
    arguments = parse()
    out = Path(arguments.out).absolute()
    prepare(arguments, out)
    by_seed = [evaluate_seed(arguments, out, seed) for seed in SEEDS]
    first = by_seed[0][0]
    text = "\n".join(
        [
            errors_table(by_seed),
            "",
            ratios_table(by_seed),
            "",
            f"`python -m benchmarks.quality.learned_vs_baselines {' '.join(sys.argv[1:])}`, "
            f"{len(SEEDS)} seeds x {arguments.num_samples}, {first['model']}, "
            f"DDIM-{first['steps']}, guidance {first['guidance']:g}, {first['device']}, "
            f"{datetime.now(UTC).date().isoformat()}",
            "",
        ]
    )
    (out / "table.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
