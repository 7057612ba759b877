"""Ablations of exploration designs and of features: errors of the schedules that each policy plans.

    python -m benchmarks.quality.ablations designs --out runs/ablate-designs
    python -m benchmarks.quality.ablations features --out runs/ablate-features

``designs`` collects 512 trajectories and trains a policy for each exploration design. ``features``
collects 512 trajectories once and trains a policy on all features, one without each of them and one
without all of them. Other settings are the defaults. The schedules that a policy planned run with
the forecast order and the feedback gain for which the policy predicts the least error, on
calibration noise of a seed that no other stage uses. An evaluation is not used here: by choosing
among planned schedules, regular schedules and gains it would hide differences between policies.
Collections and policies that exist are kept.
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
"""Features of the set ``schedule`` without those that a plan sets: gap, span, order, gain."""
SHARES = (0.7, 0.5, 0.3)
"""Shares of the steps that compute."""


def prepare_designs(arguments: argparse.Namespace, out: Path) -> list[str]:
    """Collect and train for each design; return the names of the policies."""
    for name, designs in DESIGNS.items():
        traces = out / f"traces-{name}"
        collect(arguments, out, traces, "--exploration", designs)
        train(out, traces, name)
    return list(DESIGNS)


def prepare_features(arguments: argparse.Namespace, out: Path) -> list[str]:
    """Collect once; train on all features, without each and without all; return the names."""
    collect(arguments, out, out / "traces")
    left_out = {"all": ()} | {f"no {name}": ("--drop-features", name) for name in FEATURES}
    left_out["none of these"] = ("--drop-features", ",".join(FEATURES))
    for name, flags in left_out.items():
        train(out, out / "traces", name, *flags)
    return list(left_out)


def collect(arguments: argparse.Namespace, out: Path, traces: Path, *flags: str) -> None:
    """Collect the trajectories of an ablation; those that exist are kept."""
    model = ("--model", arguments.model, "--sites", arguments.sites)
    count = ("--num-trajectories", arguments.num_trajectories, "--workers", arguments.workers)
    run_job("collect", out, *model, *count, "--out", str(traces), *flags)


def train(out: Path, traces: Path, name: str, *flags: str) -> None:
    """Train a policy unless its folder has one."""
    if not (out / name / "policy.json").exists():
        run_job("train", out, "--traces", str(traces), "--out", str(out / name), *flags)


def plan_errors(
    worker: EvaluationWorker, policy: ReusePolicy, num_samples: int
) -> Float[Tensor, "shares samples"]:
    """Errors of the policy's plans, one nearest to each of :data:`SHARES` of computed steps."""
    spec = policy.spec
    wanted = [round(share * spec.steps) for share in SHARES]
    plans = [min(spec.plans, key=lambda plan: abs(len(plan) - count)) for count in wanted]
    schedules = [tuple(step in plan for step in range(spec.steps)) for plan in plans]
    return measured_damage(worker, schedules, num_samples, spec.setting).sqrt()


def table(worker: EvaluationWorker, out: Path, names: list[str], num_samples: int) -> str:
    """Markdown table of each policy: held-out R^2, forecast order, feedback gain, and the errors of
    its plans with a 95% interval over noise samples."""
    heads = ["policy", "held-out R^2", "order", "gain"]
    heads += [f"{share:.0%} computed" for share in SHARES]
    return markdown_table(heads, [_row(worker, out, name, num_samples) for name in names])


def _row(worker: EvaluationWorker, out: Path, name: str, num_samples: int) -> list[str]:
    spec = (policy := load_policy(out / name)).spec
    shown = [f"{spec.metrics['r2']:.3f}", f"{spec.forecast_order}", f"{spec.feedback:g}"]
    errors = plan_errors(worker, policy, num_samples).tolist()
    return [name, *shown, *(normal_spread_of(one).shown(".4f") for one in errors)]


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", choices=["designs", "features"], help="subject of the ablation")
    parser.add_argument("--out", required=True, help="folder of traces, policies and table.md")
    parser.add_argument("--model", default="digits", help="model, as for jobs/collect.py")
    parser.add_argument("--sites", default="attn,ff", help="modules whose output may be reused")
    parser.add_argument("--num-trajectories", default="512", help="trajectories of a collection")
    parser.add_argument("--noise-samples", type=int, default=128, help="samples of each error")
    parser.add_argument("--workers", default="2", help="workers of a collection")
    parser.add_argument("--seed", type=int, default=52, help="seed of the calibration noise")
    return parser.parse_args(argv)


def main() -> None:
    arguments = parse()
    out = Path(arguments.out).absolute()
    prepare = prepare_designs if arguments.kind == "designs" else prepare_features
    names = prepare(arguments, out)
    worker = worker_of(load_policy(out / names[0]), arguments.model, arguments.seed)
    text = table(worker, out, names, arguments.noise_samples)
    text += (
        f"\n\n`python -m benchmarks.quality.ablations {arguments.kind}`, {arguments.model}, "
        f"{arguments.sites}, {arguments.noise_samples} noise samples of seed {arguments.seed}, "
        f"{worker.device}, {datetime.now(UTC).date().isoformat()}\n"
    )
    (out / "table.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
