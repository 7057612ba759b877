"""What a measurement ran on, and how much memory this process holds."""

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
    """The device that :func:`pipeline.models.loading.pick_device` finds, if it is the one asked
    for.

    Raises:
        InputError: if ``wanted`` names the other one.
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
    """Names and numbers to read a timing by; the date is UTC."""
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
    """The GPU's own name, or ``cpu``."""
    return torch.cuda.get_device_name() if device == "cuda" else "cpu"


def refuse_other_device(name: str, accelerator_type: str | None) -> None:
    """A measurement must be of the device that was asked for.

    Args:
        name: of the device, such as ``NVIDIA A100-SXM4-80GB``.
        accelerator_type: Ray's, such as ``A100`` or ``A100-80G``; None takes any.

    Raises:
        InputError: if the name does not say each part of the type.
    """
    if accelerator_type is None:
        return
    found = set(re.findall(r"[a-z0-9]+", name.lower()))
    parts = accelerator_type.lower().split("-")
    # Ray says 80G of what the driver calls 80GB.
    if not all(part in found or f"{part}b" in found for part in parts):
        raise InputError(
            "--accelerator-type must be the device that workers run on. Got "
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
    """Resident memory of this process now, in MiB.

    Where the system does not tell, the most it ever had: that mark cannot fall.
    """
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return peak_resident_mb()
    return pages * resource.getpagesize() / 2**20


def peak_resident_mb() -> float:
    """The most resident memory that this process ever had, in MiB."""
    # Kilobytes on Linux, bytes on macOS.
    unit = 1 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def peak_memory_mb(device: str) -> float:
    """The most that this process ever held, in MiB: of the GPU's memory since its mark was reset,
    or resident."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return peak_resident_mb()
