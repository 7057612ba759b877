"""Flags of a made-up job."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class Pool:
    """Workers."""

    workers: int = 0
    """Number of workers."""
    share: float | None = None
    """Share of a GPU; default: a whole
    one."""

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise ValueError(f"workers must be at least 0. Got {self.workers}. Pass --workers 2.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Base:
    """Shared settings."""

    seed: int = 0
    """Random seed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Flags(Base):
    """Do a job on a model, a sentence that is long enough to be broken over two lines of the
    page."""

    model: str
    """Model."""
    traces: list[str]
    """Traces."""
    sampler: Literal["ddim", "dpm"] | None = None
    """Sampler; default: the policy's."""
    bits: Literal[2, 8] = 8
    """Bits."""
    size: int | Literal["auto"] = 48
    """Size."""
    budget: float | None = None
    """Budget; default: none."""
    orders: tuple[int, ...] = (0, 1)
    """Orders."""
    shares: tuple[float, ...] = ()
    """Shares; default: all."""
    sites: tuple[str, ...] | None = None
    """Sites; default: all."""
    kinds: tuple[Literal["a", "b"], ...] = ("a",)
    """Kinds."""
    policy: list[str] = field(default_factory=list)
    """Policies."""
    folder: Path | None = None
    """Folder; default: none."""
    keep: bool = False
    """Keep the files."""
    pool: Pool = field(default_factory=Pool)
    """Workers of the job."""

    def __post_init__(self) -> None:
        if self.size == 0:
            raise ValueError("size must be at least 1.\n  Got 0. Pass --size 48.")
