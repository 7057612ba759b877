"""What exploration designs, and features known before a run, are worth to the plans made of them.

    python -m benchmarks.quality.ablations designs --out runs/ablate-designs
    python -m benchmarks.quality.ablations features --out runs/ablate-features

One collection of 512 trajectories a design, or one for all features; one training each, with the
defaults otherwise. Then each policy's own plans, with the order and gain that it predicts the least
error for, on calibration noise that no other stage sees. An evaluation would choose among plans,
regular schedules and gains, and so hide what a policy knows. Finished steps are not repeated.
"""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from benchmarks.quality.ground_truth import measured_damage, worker_of
from benchmarks.quality.learned_vs_baselines import run_job
from dqar.policy.network import ReusePolicy
from dqar.policy.serialization import load_policy
from pipeline.evaluate.worker import EvaluationWorker
from pipeline.markdown import markdown_table
from pipeline.statistics import normal_spread_of

DESIGNS = {
    "paced": "paced",
    "regular": "regular",
    "step-synchronised": "step-synchronised",
    "layer-blocked": "layer-blocked",
    "independent": "independent",
    "mixed": "paced:3,regular:1,step-synchronised:1,independent:1",
}
FEATURES = ("log_snr", "progress", "log_progress", "log_remaining", "log_span_before")
"""Features of the set ``schedule`` but those of what a plan chooses: gap, span, order, gain."""
SHARES = (0.7, 0.5, 0.3)
"""Of the steps, computed."""


def prepare_designs(arguments: argparse.Namespace, out: Path) -> list[str]:
    """A collection and a policy of each design; their names."""
    for name, designs in DESIGNS.items():
        traces = out / f"traces-{name}"
        collect(arguments, out, traces, "--exploration", designs)
        train(out, traces, name)
    return list(DESIGNS)


def prepare_features(arguments: argparse.Namespace, out: Path) -> list[str]:
    """One collection; a policy of all features, and one without each of them."""
    collect(arguments, out, out / "traces")
    left_out = {"all": ()} | {f"no {name}": ("--drop-features", name) for name in FEATURES}
    left_out["none of these"] = ("--drop-features", ",".join(FEATURES))
    for name, flags in left_out.items():
        train(out, out / "traces", name, *flags)
    return list(left_out)


def collect(arguments: argparse.Namespace, out: Path, traces: Path, *flags: str) -> None:
    """512 trajectories, unless they are there."""
    model = ("--model", arguments.model, "--sites", arguments.sites)
    count = ("--num-trajectories", arguments.num_trajectories, "--workers", arguments.workers)
    run_job("collect", out, *model, *count, "--out", str(traces), *flags)


def train(out: Path, traces: Path, name: str, *flags: str) -> None:
    """A policy, unless it is there."""
    if not (out / name / "policy.json").exists():
        run_job("train", out, "--traces", str(traces), "--out", str(out / name), *flags)


def plan_errors(
    worker: EvaluationWorker, policy: ReusePolicy, noises: int
) -> Float[Tensor, "shares noises"]:
    """Errors of the policy's plans of the shares, or of the nearest numbers of steps it has."""
    spec = policy.spec
    wanted = [round(share * spec.steps) for share in SHARES]
    plans = [min(spec.plans, key=lambda plan: abs(len(plan) - count)) for count in wanted]
    schedules = [tuple(step in plan for step in range(spec.steps)) for plan in plans]
    return measured_damage(worker, schedules, noises, spec.setting).sqrt()


def table(worker: EvaluationWorker, out: Path, names: list[str], noises: int) -> str:
    """Held-out R^2, what the plans show, and their errors with a 95% interval over noises."""
    heads = ["policy", "held-out R^2", "order", "gain"]
    heads += [f"{share:.0%} computed" for share in SHARES]
    return markdown_table(heads, [_row(worker, out, name, noises) for name in names])


def _row(worker: EvaluationWorker, out: Path, name: str, noises: int) -> list[str]:
    spec = (policy := load_policy(out / name)).spec
    shown = [f"{spec.metrics['r2']:.3f}", f"{spec.forecast_order}", f"{spec.feedback:g}"]
    errors = plan_errors(worker, policy, noises).tolist()
    return [name, *shown, *(normal_spread_of(one).shown(".4f") for one in errors)]


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=["designs", "features"])
    parser.add_argument("--out", required=True)
    parser.add_argument("--model", default="digits")
    parser.add_argument("--sites", default="attn,ff")
    parser.add_argument("--num-trajectories", default="512")
    parser.add_argument("--noises", type=int, default=128)
    parser.add_argument("--workers", default="2")
    parser.add_argument("--seed", type=int, default=52)
    return parser.parse_args(argv)


def main() -> None:
    arguments = parse()
    out = Path(arguments.out).absolute()
    prepare = prepare_designs if arguments.kind == "designs" else prepare_features
    names = prepare(arguments, out)
    worker = worker_of(load_policy(out / names[0]), arguments.model, arguments.seed)
    text = table(worker, out, names, arguments.noises)
    text += (
        f"\n\n`python -m benchmarks.quality.ablations {arguments.kind}`, {arguments.model}, "
        f"{arguments.sites}, {arguments.noises} noises of seed {arguments.seed}, "
        f"{worker.device}, {datetime.now(UTC).date().isoformat()}\n"
    )
    (out / "table.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
