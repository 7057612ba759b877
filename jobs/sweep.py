"""Run one of the DQAR paper's sweeps: figures of every setting with their spread over runs.

python jobs/sweep.py threshold --out runs/sweep-threshold
python jobs/sweep.py warmup --out runs/sweep-warmup
python jobs/sweep.py layer-fraction --out runs/sweep-layers --num-samples 32
python jobs/sweep.py direction --out runs/sweep-direction
python jobs/sweep.py ablations --out runs/sweep-ablations --ablations baseline,full_dqar
"""

import sys
from dataclasses import asdict

from pipeline.cli import run_job
from pipeline.errors import input_errors, work_errors
from pipeline.evaluate.sweeps.flags import KINDS, Ablations, ScheduleSweep, Threshold
from pipeline.redaction import typed_command
from pipeline.storage.output_checks import refuse_other_files, refuse_unwritable
from pipeline.storage.path_checks import refuse_odd_paths

FLAGS = KINDS
SHOWN = ("guidance_scale", "steps", "sampler", "dtype", "runs", "num_samples", "seed")


def run(flags: Threshold | ScheduleSweep | Ablations) -> int:
    model = None if isinstance(flags, Threshold) else flags.sweep.model
    refuse_odd_paths(out=flags.out, model=model)
    from pipeline.cluster.hardware import choose_device
    from pipeline.evaluate.sweeps.run import run_sweep
    from pipeline.tracking import Tracker, settle_earlier

    if settle_earlier(flags, "sweep.json"):
        return 0
    device = choose_device(flags.device)
    config = dummy_config(flags, device) if isinstance(flags, Threshold) else model_config(flags)
    refuse_other_files(flags.out, "sweep.json")
    refuse_unwritable(flags.out)
    tracker = Tracker.of(flags)
    print(line_of(flags, config, device), flush=True)
    command = typed_command("sweep.py")
    with work_errors():
        run_sweep(config, device, command, flags.out, tracker)
    tracker.settle()
    return 0


def dummy_config(flags: Threshold, device: str):
    """Return the settings of the threshold sweep on the device that was found."""
    from pipeline.evaluate.sweeps.config import ThresholdConfig

    return ThresholdConfig(device=device, **asdict(flags.sweep))


def model_config(flags: ScheduleSweep | Ablations):
    """Return the settings of a sweep on a model; without --guidance-scale they take the model's."""
    from pipeline.evaluate.sweeps.config import SweepConfig
    from pipeline.evaluate.sweeps.grids import schedule_grid
    from pipeline.models.loading import refuse_unloadable
    from pipeline.models.model_info import find_model, refuse_too_many_steps

    info = find_model(flags.sweep.model)
    settings = asdict(flags.sweep)
    if flags.sweep.guidance_scale is None:
        settings["guidance_scale"] = info.guidance_scale
    with input_errors():
        grid = flags.grid.decided() if isinstance(flags, Ablations) else schedule_grid(flags)
        config = SweepConfig(kind=flags.kind, grid=grid, **settings)
    refuse_too_many_steps(info, config.steps)
    refuse_unloadable(info, config.sampler, config.steps)
    return config


def line_of(flags: Threshold | ScheduleSweep | Ablations, config, device: str) -> str:
    """Return the line of what is measured, and why."""
    from pipeline.choices import NO_RECORD, RECORD, choices_line, sampling_line, traced
    from pipeline.choices import unless_default as typed
    from pipeline.models.model_info import find_model

    is_dummy = isinstance(flags, Threshold)
    names = ("runs", "steps", "seed") if is_dummy else SHOWN
    values = {name: getattr(config, name) for name in names} | {"device": device}
    usual = asdict(type(flags.sweep)())
    given = {name: typed(getattr(flags.sweep, name), usual[name]) for name in names}
    given["device"] = typed(flags.device, "auto")
    if is_dummy:
        return choices_line("sweep threshold", traced(values, given, {"device": "found by torch"}))
    info = find_model(flags.sweep.model)
    guidance = RECORD if info.is_guidance_recorded else NO_RECORD
    sources = {"guidance_scale": guidance, "device": "found by torch"}
    job = f"sweep {flags.kind}"
    return sampling_line(job, flags.sweep.model, info.model_hash, values, given, sources)


def main() -> int:
    return run_job(FLAGS, run, name="sweep.py")


if __name__ == "__main__":
    sys.exit(main())
