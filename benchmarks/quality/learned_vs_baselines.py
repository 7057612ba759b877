"""Learned reuse against schedules, thresholds and fewer steps, on 5 seeds x 64 unseen samples.

    python -m benchmarks.quality.learned_vs_baselines --sites attn,ff --out runs/bench-both

Collects 512 trajectories and trains once, with the defaults, then evaluates each seed; the tables
go to standard output and to ``table.md`` in the folder. Finished steps are not repeated.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.evaluate.frontier import Axis, error_at
from pipeline.markdown import markdown_table
from pipeline.statistics import spread_of

SEEDS = (21, 22, 23, 24, 25)
"""Fixed before any of them was run. Defaults were chosen on others, so those prove nothing."""
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
"""The default, and what it is compared with: no forecasts, no error feedback, neither; one-step
errors in the same planner; step by step with all features, from the final error and, as published
routers learn, from one-step ones."""
METHODS = "fewer-steps,interval,interval-forecast1,interval-forecast2,threshold,threshold-tuned"
PLACES: tuple[tuple[Axis, float], ...] = (
    *(("reuse_ratio", ratio) for ratio in (0.3, 0.5, 0.7)),
    *(("flops_ratio", ratio) for ratio in (2.0, 3.0, 4.0)),
)
HEADS = {"reuse_ratio": "reuse", "flops_ratio": "FLOPs x"}


def run_job(job: str, out: Path, *flags: str) -> None:
    """One of the jobs, exactly as a user starts it."""
    tracking = ("--tracking-uri", f"sqlite:///{out / 'mlflow.db'}")
    subprocess.run([sys.executable, f"jobs/{job}.py", *flags, *tracking], check=True)


def prepare(arguments: argparse.Namespace, out: Path) -> None:
    """Traces, the policy, and the policies that it is compared with."""
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
    """Results of one seed; read back where they are there already."""
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
    return json.loads((folder / "results.json").read_text())


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
    """Mean error of the default policy over each rival's, at equal reuse ratio or FLOPs."""
    rows = [
        [name, *(_ratio(by_seed, name, axis, value) for axis, value in PLACES)]
        for name in names_of(by_seed)
        if name != "learned"
    ]
    return markdown_table(["learned over", *_heads()], rows)


def _heads() -> list[str]:
    return [f"{HEADS[axis]} {value:g}" for axis, value in PLACES]


def names_of(by_seed: list[list[dict[str, Any]]]) -> list[str]:
    """Methods, in their order."""
    return list(dict.fromkeys(row["method"] for row in by_seed[0] if row["method"] != "baseline"))


def errors_at(
    by_seed: list[list[dict[str, Any]]], name: str, axis: Axis, value: float
) -> list[float]:
    """A method's error on each seed; none where a seed's sweep does not reach there."""
    found = [error_at(rows, name, axis, value) for rows in by_seed]
    errors = [error for error in found if error is not None]
    return errors if len(errors) == len(by_seed) else []


def _cell(errors: list[float]) -> str:
    return spread_of(errors).shown(".4f") if errors else "-"


def _ratio(by_seed: list[list[dict[str, Any]]], name: str, axis: Axis, value: float) -> str:
    mine, theirs = (errors_at(by_seed, one, axis, value) for one in ("learned", name))
    return f"{sum(mine) / sum(theirs):.2f}x" if mine and theirs else "-"


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", required=True)
    parser.add_argument("--model", default="digits")
    parser.add_argument("--sites", default="attn,ff")
    parser.add_argument("--guidance-scale")
    parser.add_argument("--num-trajectories", default="512")
    parser.add_argument("--num-samples", default="64")
    parser.add_argument("--workers", default="2")
    parser.add_argument("--methods", default=METHODS, help="besides learned")
    parser.add_argument("--fits", default=",".join(FITS), help="policies, the default first")
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
