"""Runs of the tiny pipelines: loaded from folders, sampled, and counted."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dqar.config import DQARConfig
from dqar.control.controller import DQARController
from dqar.gates.base import Gate
from tests.conformance.pipelines import CASES
from tests.conformance.pipelines.case import SAMPLES, Case
from tests.conformance.replay import Clock, Computes, Replay, counted, every_second


def save(case: Case, folder: Path) -> Path:
    """Save the family's pipeline, as ``save_pretrained`` writes it."""
    import diffusers

    nothing = dict.fromkeys(case.absent)
    with torch.random.fork_rng(devices=[]):
        pipe = getattr(diffusers, case.pipeline)(**case.components(), **nothing, **case.options)
    pipe.save_pretrained(folder)
    return folder


def load(case: Case, folder: Path, **changes: Any) -> Any:
    """Load the pipeline by its stock class."""
    import diffusers

    pipe = getattr(diffusers, case.pipeline).from_pretrained(
        folder, **dict.fromkeys(case.absent), **changes
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def sample(pipe: Any, case: Case, *, samples: int = SAMPLES, tall: bool = False, **options: Any):
    """Latents of a call of the pipeline; the arguments are made again for each call."""
    given = case.arguments(samples, case.tall if tall else case.low)
    given = {name: cast(value, pipe.dtype) for name, value in given.items()}
    return pipe(**given | {"num_inference_steps": case.steps} | options)[0]


def cast(value: Any, dtype: torch.dtype) -> Any:
    """Cast a floating tensor, or the tensors of a list."""
    if isinstance(value, list):
        return [cast(one, dtype) for one in value]
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


def replay(
    pipe: Any,
    case: Case,
    sites: tuple[str, ...],
    computes: Computes = every_second,
    first: int = 0,
    **options: Any,
) -> tuple[Tensor, Clock]:
    """Latents of a run under the independent replay; the pipeline stays patched."""
    with counted(pipe, case, first) as clock:
        Replay(pipe, case, clock, computes).attach(sites)
        return sample(pipe, case, **options), clock


def config(sites: tuple[str, ...], **changes: Any) -> DQARConfig:
    """A configuration whose cache is not quantised."""
    return DQARConfig(sites=sites, quantization_bits=32, **changes)


def controller(sites: tuple[str, ...], gate: Gate, **options: Any) -> DQARController:
    return DQARController(config(sites), gate=gate, **options)


@contextmanager
def leaf_calls(pipe: Any, case: Case) -> Iterator[Counter[str]]:
    """Count the calls of ``forward`` of modules that contain no others."""
    calls: Counter[str] = Counter()
    touched = []

    def counting(name: str, inner: Any) -> Any:
        @functools.wraps(inner)
        def forward(*args: Any, **kwargs: Any) -> Any:
            calls[name] += 1
            return inner(*args, **kwargs)

        return forward

    for which in case.names:
        for name, module in getattr(pipe, which).named_modules():
            if not list(module.children()):
                module.forward = counting(f"{which}.{name}", module.forward)
                touched.append(module)
    yield calls
    for module in touched:
        vars(module).pop("forward", None)


def apart(found: Tensor, wanted: Tensor) -> float:
    """Largest difference, relative to the largest wanted value."""
    return ((found - wanted).abs().max() / wanted.abs().max()).item()


def sets_of(case: Case) -> dict[str, tuple[str, ...]]:
    """All sets of sites that are tested together, by name."""
    single = {site: (site,) for site in case.sites}
    whole = {"block": ("block",)} | ({"stack": ("stack",)} if case.has_stack else {})
    return {"outputs": tuple(case.sites)} | single | whole


WHOLE = ("outputs", "block", "stack")
"""The sets of sites of the quick tests: all outputs, blocks, and stacks of blocks."""


def cells(*whiches: str, slow: tuple[str, ...] = (), cases: tuple[str, ...] = tuple(CASES)) -> Any:
    """Parametrise a test by family and sites, where the family has them."""
    return pytest.mark.parametrize(
        ("case", "sites"),
        [
            pytest.param(
                CASES[name],
                sets_of(CASES[name])[which],
                id=f"{name}-{which}",
                marks=pytest.mark.slow if which in slow else (),
            )
            for name in cases
            for which in (*whiches, *slow)
            if which in sets_of(CASES[name])
        ],
    )
