"""The seed's experiments: thresholds on the dummy DiT; layer schedules and ablations on a model.

python jobs/sweep.py threshold --out runs/sweep-threshold
python jobs/sweep.py warmup --out runs/sweep-warmup
python jobs/sweep.py layer-fraction --out runs/sweep-layers --num-samples 32
python jobs/sweep.py direction --out runs/sweep-direction
python jobs/sweep.py ablations --out runs/sweep-ablations --ablations baseline full_dqar
"""

import argparse
import shlex
import sys
from fractions import Fraction
from typing import Any

from pipeline.cli import JobParser, add_tracking_flags, enter, split_names
from pipeline.errors import InputError, checked
from pipeline.storage.output_checks import (
    refuse_other_files,
    refuse_relative_inside_job,
    refuse_unwritable,
)

ALWAYS = {"kind", "out", "device", "tracking_uri", "experiment"}
EVERY_KIND = {"runs", "steps", "seed"}
OF_MODELS = {"model", "num_samples", "batch_size", "guidance_scale", "sampler", "dtype"}
OF_SCHEDULES = {"warmups", "layer_fractions", "cache_bits"}
OF_ABLATIONS = {"ablations", "entropy_quantile", "entropy_threshold"}
OF_THRESHOLDS = {"thresholds", "reuse_limits", "max_gap"}
GRID_FLAGS = {
    "threshold": OF_THRESHOLDS,
    "warmup": OF_SCHEDULES,
    "layer-fraction": OF_SCHEDULES,
    "direction": OF_SCHEDULES,
    "ablations": OF_ABLATIONS,
}
SAMPLES_FOR_FID = 64


def run(arguments: argparse.Namespace) -> int:
    refuse_relative_inside_job(out=arguments.out)
    refuse_misplaced_flags(arguments)
    from pipeline.cluster.hardware import choose_device
    from pipeline.evaluate.sweeps.run import run_sweep
    from pipeline.tracking import Tracker

    device = choose_device(arguments.device)
    given = {name: value for name, value in vars(arguments).items() if name not in ALWAYS}
    is_dummy = arguments.kind == "threshold"
    config = of_dummy(given, device) if is_dummy else of_model(arguments.kind, given)
    refuse_other_files(arguments.out, "sweep.json")
    refuse_unwritable(arguments.out)
    tracker = Tracker(arguments.tracking_uri, arguments.experiment)
    command = "python jobs/sweep.py " + shlex.join(sys.argv[1:])
    run_sweep(config, device, command, arguments.out, tracker)
    return 0


def refuse_misplaced_flags(arguments: argparse.Namespace) -> None:
    kind = arguments.kind
    known = ALWAYS | EVERY_KIND | GRID_FLAGS[kind]
    known |= set() if kind == "threshold" else OF_MODELS
    if misplaced := sorted(set(vars(arguments)) - known):
        flags = ", ".join("--" + name.replace("_", "-") for name in misplaced)
        raise InputError(f"Flags must belong to {kind}. Got {flags}. Leave it out; see --help.")


def of_dummy(given: dict, device: str):
    from pipeline.evaluate.sweeps.config import ThresholdConfig

    return checked(ThresholdConfig, device=device, **given)


def of_model(kind: str, given: dict):
    """What was left out follows the seed, and the guidance the model."""
    from pipeline.evaluate.sweeps.config import SweepConfig
    from pipeline.models.model_info import find_model, refuse_too_many_steps

    info = find_model(given.get("model", "digits"))
    grid = checked(grid_of, kind=kind, **{k: v for k, v in given.items() if k in GRID_FLAGS[kind]})
    shared = {name: value for name, value in given.items() if name not in GRID_FLAGS[kind]}
    follows = {"guidance_scale": info.guidance_scale}
    if kind == "ablations":
        follows["num_samples"] = SAMPLES_FOR_FID
    config = checked(SweepConfig, kind=kind, grid=grid, **follows | shared)
    refuse_too_many_steps(info, config.steps)
    return config


def grid_of(kind: str, **given: Any):
    from dataclasses import replace

    from pipeline.evaluate.sweeps.grids import GRIDS, AblationGrid

    if kind != "ablations":
        return replace(GRIDS[kind], **given)
    if "ablations" in given:
        given["ablations"] = tuple(given["ablations"])
    return AblationGrid(**given)


def numbers(text: str) -> tuple[float, ...]:
    """``"1/3,0.5"`` to ``(0.333, 0.5)``."""
    try:
        return tuple(float(Fraction(part)) for part in split_names(text))
    except ArithmeticError as error:
        raise ValueError(text) from error


def whole_numbers(text: str) -> tuple[int, ...]:
    """``"2,4,6"`` to ``(2, 4, 6)``."""
    return tuple(int(part) for part in split_names(text))


def parser() -> JobParser:
    job = JobParser("Run one of the seed's experiments: figures with their spread over runs.")
    job.epilog = (
        "The seed's scripts: dummy_benchmark_sweep.py is threshold (its --dqar-max-gap is "
        "--max-gap); warmup_sweep.py is warmup and layer_sweep.py is layer-fraction (their "
        "--output-dir is --out); evaluate.py --ablations is ablations."
    )
    job.add_argument("kind", metavar="KIND", choices=list(GRID_FLAGS), help=", ".join(GRID_FLAGS))
    job.add_argument("--out", required=True, help="folder to write; the seed's --output-dir")
    job.add_argument(
        "--device", choices=["auto", "cpu", "cuda"], default="auto", help="auto: a GPU, if any"
    )
    add_tracking_flags(job)
    # What is left out takes the sweep's own default, which differs from kind to kind.
    job.argument_default = argparse.SUPPRESS
    job.add_argument("--runs", type=int, help="runs of each point (default: 5)")
    job.add_argument("--steps", type=int, help="denoising steps (default: threshold 12, else 50)")
    job.add_argument("--seed", type=int, help="seed of the noise (default: 0)")
    add_grid_flags(job)
    add_model_flags(job)
    return job


def add_grid_flags(job: JobParser) -> None:
    """What is swept."""
    threshold = job.add_argument_group("threshold: entropy threshold x reuse limit, dummy DiT")
    threshold.add_argument(
        "--thresholds", type=numbers, help="entropy thresholds, nats (default: 1.5,3.0,5.0)"
    )
    threshold.add_argument(
        "--reuse-limits", type=whole_numbers, help="reuses of an entry (default: 2,4,6)"
    )
    threshold.add_argument(
        "--max-gap", type=int, help="staleness limit; the seed's --dqar-max-gap (default: 6)"
    )
    schedules = job.add_argument_group("warmup, layer-fraction, direction: LINEAR schedules")
    schedules.add_argument(
        "--warmups", type=numbers, help="warm-up shares (default: warmup 0.1 to 0.6, else 0.2)"
    )
    schedules.add_argument(
        "--layer-fractions",
        type=numbers,
        help="shares of layers (default: warmup 1/3, else 1/3,1/2,2/3,3/4,1)",
    )
    schedules.add_argument(
        "--cache-bits", type=int, choices=[8, 16, 32], help="bits of a cached value (default: 16)"
    )
    ablations = job.add_argument_group("ablations")
    ablations.add_argument(
        "--ablations",
        nargs="+",
        metavar="NAME",
        help="as in the seed (default: baseline entropy_gate quant_cache full_dqar)",
    )
    ablations.add_argument(
        "--entropy-quantile",
        type=float,
        help="tau as a quantile of the observed entropy (default: 0.5)",
    )
    ablations.add_argument("--entropy-threshold", type=float, help="tau in nats instead")


def add_model_flags(job: JobParser) -> None:
    """The model, in every kind but threshold."""
    model = job.add_argument_group("the model, in every kind but threshold")
    model.add_argument("--model", help="digits, a diffusers folder, or a hub id (default: digits)")
    model.add_argument(
        "--num-samples", type=int, help="samples of each run (default: ablations 64, else 16)"
    )
    model.add_argument("--batch-size", type=int, help="samples side by side (default: 32)")
    model.add_argument("--guidance-scale", type=float, help="guidance (default: the model's)")
    model.add_argument("--sampler", choices=["ddim", "dpm"], help="sampler (default: ddim)")
    model.add_argument(
        "--dtype", choices=["fp32", "fp16", "bf16"], help="arithmetic (default: fp32)"
    )


if __name__ == "__main__":
    sys.exit(enter(parser(), run))
