"""Registry of the methods that an evaluation can compare.

A new method is one file in this package and one line in :data:`METHODS`.
"""

from __future__ import annotations

from pipeline.errors import InputError
from pipeline.methods.base import Comparison, Method
from pipeline.methods.budget_search import BudgetSearch
from pipeline.methods.fewer_steps import Baseline, FewerSolverSteps, FewerSteps
from pipeline.methods.interval import (
    IntervalForecast1,
    IntervalForecast2,
    IntervalReuse,
    LinearSchedule,
)
from pipeline.methods.learned_gate import MajoritySchedule
from pipeline.methods.learned_schedule import LearnedSchedule
from pipeline.methods.learning_to_cache import Router
from pipeline.methods.one_stretch import OneStretch
from pipeline.methods.smoothcache import SmoothCache, SmoothCacheTied
from pipeline.methods.solvers import EverySolver, SolversAlone
from pipeline.methods.spaced import SpacedSteps
from pipeline.methods.threshold import PaperThreshold, TunedThreshold
from pipeline.models.model_info import ModelInfo

METHODS: tuple[type[Method], ...] = (
    Baseline,
    FewerSteps,
    FewerSolverSteps,
    SolversAlone,
    EverySolver,
    IntervalReuse,
    IntervalForecast1,
    IntervalForecast2,
    LinearSchedule,
    PaperThreshold,
    TunedThreshold,
    SmoothCache,
    SmoothCacheTied,
    Router,
    SpacedSteps,
    OneStretch,
    BudgetSearch,
    MajoritySchedule,
    LearnedSchedule,
)
"""All methods, in the order of their rows in results.json."""


def method_names() -> tuple[str, ...]:
    """Return the names of all methods."""
    return tuple(method.name for method in METHODS)


def offered_names() -> tuple[str, ...]:
    """Return the names that ``--methods`` takes."""
    return tuple(method.name for method in METHODS if not method.is_for_paper)


def paper_names() -> tuple[str, ...]:
    """Return the names that only the key ``methods`` of a configuration file takes."""
    return tuple(method.name for method in METHODS if method.is_for_paper)


def refuse_unknown(names: tuple[str, ...], for_paper: tuple[str, ...] = ()) -> None:
    """Refuse unknown method names, and an empty list of names.

    Args:
        names: of ``--methods``.
        for_paper: of the key ``methods`` of a configuration file.

    Raises:
        InputError: with the names of all methods that may be chosen there.
    """
    unknown = sorted(set(names) - set(offered_names()))
    if moved := sorted(set(unknown) & set(paper_names())):
        raise InputError(
            f"--methods must leave out the methods of the DQAR paper's experiments. Got {moved}. "
            f"Give methods: [{', '.join(moved)}] in the file of --config."
        )
    if unknown or not names:
        raise InputError(
            f"--methods must be among {', '.join(offered_names())}. Got {unknown or 'none'}. "
            "Check the spelling."
        )
    if unknown := sorted(set(for_paper) - set(paper_names())):
        raise InputError(
            f"methods of --config must be among {', '.join(paper_names())}. Got {unknown}. Pass "
            "other methods with --methods."
        )


def chosen_methods(names: tuple[str, ...]) -> list[type[Method]]:
    """Return the methods with these names and the baseline, in the order of :data:`METHODS`."""
    return [one for one in METHODS if one.name in names or one.role == "reference"]


def refuse_unserved(names: tuple[str, ...], info: ModelInfo) -> None:
    """Refuse methods that cannot serve a model.

    Raises:
        InputError: for the first method that cannot, with the reason.
    """
    for method in chosen_methods(names):
        method.check(info)


def build_methods(comparison: Comparison) -> list[Method]:
    """Build the methods of one evaluation."""
    chosen = chosen_methods(comparison.methods)
    return [method for kind in chosen for method in kind.build(comparison)]


def method_of(row_name: str) -> type[Method]:
    """Return the method of a row of results.json, whose method name may have a policy appended.

    Example: ``method_of("learned-full") is method_of("learned")``.

    Raises:
        ValueError: if the row belongs to no method.
    """
    fits = [one for one in METHODS if f"{row_name}-".startswith(f"{one.name}-")]
    if not fits:
        raise ValueError(
            f"The row must belong to one of the methods {method_names()}. Got {row_name!r:.60}. "
            "Evaluate again."
        )
    return max(fits, key=lambda one: len(one.name))
