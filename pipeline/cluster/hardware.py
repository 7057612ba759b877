"""Description of the machine that a measurement ran on; memory of this process."""

from __future__ import annotations

import os
import platform
import re
import resource
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from pipeline.errors import InputError
from pipeline.models.loading import pick_device


def choose_device(wanted: str) -> str:
    """Return the device that :func:`pipeline.models.loading.pick_device` finds.

    Args:
        wanted: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        InputError: if ``wanted`` names another device than the one found.
    """
    found = pick_device()
    if wanted not in ("auto", found):
        fix = "Hide the GPU with CUDA_VISIBLE_DEVICES=''" if found == "cuda" else "Pass cpu"
        raise InputError(
            "--device must be the device that torch finds on this machine. Got "
            f"{wanted}, but torch finds {found}. {fix}."
        )
    return found


def describe_machine(device: str) -> dict[str, Any]:
    """Return hardware, software versions and the date in UTC, as context of a timing."""
    return {
        "cpu": _cpu_name(),
        "gpu": device_name(device) if device == "cuda" else None,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def device_name(device: str) -> str:
    """Return the name of the GPU, or ``cpu``."""
    return torch.cuda.get_device_name() if device == "cuda" else "cpu"


def refuse_other_device(name: str, accelerator_type: str | None) -> None:
    """Refuse a device that is not of the accelerator type that was asked for.

    Args:
        name: name of the device, such as ``NVIDIA A100-SXM4-80GB``.
        accelerator_type: Ray's name, such as ``A100`` or ``A100-80G``; None accepts any device.

    Raises:
        InputError: if a part of the type is missing in the name.
    """
    if accelerator_type is None:
        return
    found = set(re.findall(r"[a-z0-9]+", name.lower()))
    parts = accelerator_type.lower().split("-")
    # Ray writes 80G where the GPU driver writes 80GB.
    if not all(part in found or f"{part}b" in found for part in parts):
        raise InputError(
            "--accelerator-type must be the type of the device that workers run on. Got "
            f"{accelerator_type}, with a worker on {name}. Fix the resources or labels of that "
            "node, or ask for another type."
        )


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def resident_mb() -> float:
    """Return the resident memory of this process, in MiB.

    Without ``/proc``, the peak is returned instead, which never falls.
    """
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return peak_resident_mb()
    return pages * resource.getpagesize() / 2**20


def peak_resident_mb() -> float:
    """Return the peak resident memory of this process, in MiB."""
    # ru_maxrss is in kilobytes on Linux, in bytes on macOS.
    unit = 1 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def peak_memory_mb(device: str) -> float:
    """Return the peak memory of this process, in MiB: GPU memory since torch's peak statistics
    were reset, or resident memory on a CPU."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return peak_resident_mb()
