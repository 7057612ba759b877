"""What a device says of itself: its clock, its name, its memory."""

from __future__ import annotations

import gc
import platform
import time

import torch


def clock(device: str) -> float:
    """Seconds; on a GPU after all work is done."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def device_name(device: str) -> str:
    """The GPU's name, or the CPU's architecture."""
    return torch.cuda.get_device_name() if device == "cuda" else f"cpu {platform.machine()}"


def forget_peak(device: str) -> None:
    """Begin to watch the most memory that is allocated."""
    if device == "cuda":
        gc.collect()
        torch.cuda.reset_peak_memory_stats()


def peak_bytes(device: str) -> int | None:
    """The most bytes that tensors held since :func:`forget_peak`, weights included; None on a
    CPU, whose allocator does not tell."""
    return torch.cuda.max_memory_allocated() if device == "cuda" else None
