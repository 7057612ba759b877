"""Settings of a timing benchmark, and the flags that set them."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks.timing.support.architectures import ARCHITECTURES, Architecture
from benchmarks.timing.support.device_clock import device_name

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
CACHE_BITS = (4, 8, 16, 32)
DEVICES = ("cpu", "cuda")


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """One model on one device at one batch."""

    model: str
    """A name in :data:`benchmarks.timing.support.architectures.ARCHITECTURES`."""
    device: str
    """``cpu`` or ``cuda``."""
    batch: int = 4
    """Samples; rows are twice as many, since every step is guided."""
    dtype: str = "fp32"
    """Type of weights and activations, a key of :data:`DTYPES`."""
    cache_bits: int = 32
    """Bits of a cached value."""
    compiled: bool = False
    """True if every timed model went through ``torch.compile``."""

    def __post_init__(self) -> None:
        for name, known in (("model", ARCHITECTURES), ("dtype", DTYPES), ("device", DEVICES)):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name} must be one of {sorted(known)}. Got {getattr(self, name)!r}. "
                    f"Pass {min(known)!r}."
                )
        if self.batch < 1:
            raise ValueError(f"batch must be at least 1. Got {self.batch=}. Pass 4.")
        if self.cache_bits not in CACHE_BITS:
            raise ValueError(
                f"cache_bits must be one of {CACHE_BITS}. Got {self.cache_bits=}. Pass 32."
            )

    @property
    def sizes(self) -> Architecture:
        """Sizes of the model."""
        return ARCHITECTURES[self.model]

    @property
    def torch_dtype(self) -> torch.dtype:
        """Type of weights and activations."""
        return DTYPES[self.dtype]

    def facts(self) -> dict[str, Any]:
        """Settings and machine, as every result states them."""
        return {
            "model": self.model,
            "weights": "random",
            "device": device_name(self.device),
            "dtype": self.dtype,
            "batch": self.batch,
            "cache_bits": self.cache_bits,
            "compiled": self.compiled,
        } | machine_facts()


def machine_facts() -> dict[str, Any]:
    """Number of threads, release of torch, and date."""
    return {
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "date": datetime.now(UTC).date().isoformat(),
    }


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that :func:`settings_of` reads."""
    parser.add_argument(
        "--model", choices=sorted(ARCHITECTURES), required=True, help="architecture"
    )
    parser.add_argument("--device", choices=DEVICES, required=True, help="device to time")
    parser.add_argument("--batch", type=count, default=4, help="samples; rows are twice as many")
    parser.add_argument(
        "--dtype", choices=sorted(DTYPES), default="fp32", help="type of weights and activations"
    )
    parser.add_argument(
        "--cache-bits", type=int, choices=CACHE_BITS, default=32, help="bits of a cached value"
    )
    parser.add_argument("--compile", action="store_true", help="time compiled models")
    parser.add_argument("--out", type=Path, help="also write the JSON line to this file")


def settings_of(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> Settings:
    """Build settings from flags; a bad flag ends the program with one line and exit code 2."""
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda must have a GPU. Got none. Pass --device cpu.")
    try:
        return Settings(
            model=arguments.model,
            device=arguments.device,
            batch=arguments.batch,
            dtype=arguments.dtype,
            cache_bits=arguments.cache_bits,
            compiled=arguments.compile,
        )
    except ValueError as error:
        parser.error(str(error))


def count(text: str) -> int:
    """Parse the text of a flag as a whole number of at least 1.

    Raises:
        argparse.ArgumentTypeError: for any other text, with the fix in its message.
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1. Got {text!r}. Pass 8.")
    return int(text)


def hand_over(result: Mapping[str, Any], out: Path | None) -> None:
    """Print a result as one line of JSON, and write the line to ``out`` if given."""
    line = json.dumps(result)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(line + "\n")
    print(line)
