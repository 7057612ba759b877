"""Clock, name and peak memory of a device."""

from __future__ import annotations

import gc
import platform
import time

import torch


def clock(device: str) -> float:
    """Seconds of the host's clock, read after all queued work of a GPU is done."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def device_name(device: str) -> str:
    """Name of the GPU, or ``cpu`` with the architecture such as ``cpu x86_64``."""
    return torch.cuda.get_device_name() if device == "cuda" else f"cpu {platform.machine()}"


def forget_peak(device: str) -> None:
    """Reset the peak of allocated memory."""
    if device == "cuda":
        gc.collect()
        torch.cuda.reset_peak_memory_stats()


def peak_bytes(device: str) -> int | None:
    """Peak bytes of all tensors since :func:`forget_peak`, weights included; None on a CPU, whose
    allocator has no such counter."""
    return torch.cuda.max_memory_allocated() if device == "cuda" else None
