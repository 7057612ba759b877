"""Cases of the fuzzer: a damaged or odd input of one job, and the generators that make them.

A generator of a kind is a function ``cases(rng, folder)`` that yields cases without end. It builds
the files that its cases name below ``folder``, and draws every choice from ``rng``.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A command line of one job, and the change that makes it odd."""

    kind: str
    """Kind of input that is odd: command line, model folder, document, policy or path."""
    job: str
    """Job by its file's name: collect, train, evaluate, sample, sweep, pretrain, doctor or demo."""
    args: tuple[str, ...]
    """Arguments of the job."""
    note: str
    """One line that says what was changed."""
    is_damaged: bool = False
    """True where accepting the input would be silently wrong."""


Cases = Callable[[random.Random, Path], Iterator[Case]]
"""A generator of one kind's cases."""
