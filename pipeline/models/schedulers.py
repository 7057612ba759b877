"""Schedulers of a model for a sampler with its settings, checked before a run."""

from __future__ import annotations

from typing import Any

import torch

from dqar.foreign_files import spelled
from dqar.integration.noise_schedules import convert_scheduler
from dqar.sampler_names import SOLVERS
from dqar.scheduler_table import is_random, kind_of, noise_of, require_supported
from pipeline.errors import InputError
from pipeline.models.broken_folders import refusing_what_is_broken
from pipeline.models.folder_documents import read_json
from pipeline.models.model_info import ModelInfo
from pipeline.models.sampling_choices import Sampler, SolverSetting, read_sampler


def load_scheduler(info: ModelInfo, sampler: Sampler) -> Any:
    """Load the scheduler of a deterministic sampler with the model's own noise schedule.

    Raises:
        InputError: if it cannot be read, or the sampler cannot take it over.
    """
    saved = saved_scheduler(info)
    try:
        setting = read_sampler(sampler)
        scheduler = saved if setting.solver == "saved" else _converted(saved, setting)
        if setting.solver == "saved":
            _refuse_unrepeatable(scheduler)
        _refuse_odd_noise(scheduler)
        return scheduler
    # Some solvers refuse a setting by an ImportError of a package that only this setting needs.
    except (ValueError, NotImplementedError, ImportError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"--model {spelled(info.name)} with --sampler {sampler}: {reason}"
        ) from error


def _converted(saved: Any, setting: SolverSetting) -> Any:
    import diffusers

    kind = getattr(diffusers, SOLVERS[setting.solver])
    return convert_scheduler(kind, saved, **setting.values)


def _refuse_unrepeatable(scheduler: Any) -> None:
    require_supported(scheduler)
    kind, name = kind_of(scheduler), type(scheduler).__name__
    if is_random(scheduler):
        raise ValueError(
            f"The saved scheduler must draw no noise in its steps, so that reuse can be compared "
            f"with the same run without it. Got {name}. Pass --sampler ddim."
        )
    if kind is not None and kind.calls > 1:
        raise ValueError(
            f"The saved scheduler must call the model once a step, as steps are counted here. Got "
            f"{name} with up to {kind.calls} calls. Pass --sampler dpm."
        )


def _refuse_odd_noise(scheduler: Any) -> None:
    kept = getattr(scheduler, "alphas_cumprod", None)
    if kept is None:  # of flows and EDM, whose sigmas are checked with the timesteps
        return
    is_share = bool(((kept >= 0) & (kept <= 1)).all())  # False where one is NaN
    is_whole = len(kept) == scheduler.config.num_train_timesteps
    if not (is_share and is_whole) or (kept.diff() > 0).any() or kept[0] == 0:
        raise ValueError(
            "The scheduler must keep a share of the signal that falls from at most 1 to at least 0 "
            "over its num_train_timesteps. Got other betas. Save the scheduler again."
        )


def scheduler_of_run(info: ModelInfo, sampler: Sampler, steps: int) -> Any:
    """Load the scheduler of a model and set its timesteps; the weights are not loaded.

    Args:
        info: description of the model.
        sampler: sampler whose scheduler is loaded.
        steps: sampling steps.

    Raises:
        InputError: if the scheduler cannot be read, or cannot take that many steps.
    """
    scheduler = load_scheduler(info, sampler)
    with refusing_what_is_broken(info):
        scheduler.set_timesteps(steps)
        _refuse_odd_timesteps(scheduler, steps)
    return scheduler


def _refuse_odd_timesteps(scheduler: Any, steps: int) -> None:
    timesteps = torch.as_tensor(scheduler.timesteps).double()
    sigmas = getattr(scheduler, "sigmas", None)
    # A flow's first timestep is 1000 of 1000; EDM's are logarithms of its sigmas, without bounds.
    is_flow, has_betas = noise_of(scheduler) == "flow", hasattr(scheduler, "alphas_cumprod")
    most = scheduler.config.num_train_timesteps - (not is_flow)
    is_within = len(timesteps) == steps and bool(timesteps.isfinite().all())
    if is_flow or has_betas:
        is_within = is_within and bool(((timesteps >= 0) & (timesteps <= most)).all())
    # Rounding makes timesteps equal whose sigmas differ.
    falls = timesteps.diff() < 0 if sigmas is None else _falling(sigmas[:steps], timesteps)
    if not is_within or not falls.all():
        raise InputError(
            f"The scheduler must have {steps} falling timesteps from {most} to 0. Got others "
            "from its timestep_spacing and steps_offset. Pass fewer --steps."
        )


def _falling(sigmas: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
    return (sigmas.double().diff() < 0) & (timesteps.diff() <= 0)


def solution_sampler(info: ModelInfo) -> Sampler:
    """Return the sampler that solves a model's equation by many steps: DDIM, or the saved scheduler
    where DDIM cannot take it over, as of flows and EDM.

    Raises:
        InputError: if neither can sample the model.
    """
    try:
        load_scheduler(info, "ddim")
        return "ddim"
    except InputError:
        load_scheduler(info, "saved")
        return "saved"


def saved_scheduler(info: ModelInfo) -> Any:
    """Load the scheduler that the model's folder names, of any class of diffusers.

    Raises:
        InputError: if diffusers has no such scheduler, or if the folder cannot be read.
    """
    import diffusers

    config = read_json(info.folder / "scheduler" / "scheduler_config.json", info.name)
    name = str(config.get("_class_name"))
    kind = getattr(diffusers, name, None) if name.endswith("Scheduler") else None
    if kind is None:
        raise InputError(
            f"--model {spelled(info.name)} must name a scheduler of diffusers. Got {name!r:.60}. "
            "Save the model again with save_pretrained."
        )
    with refusing_what_is_broken(info):
        return kind.from_config(config)
