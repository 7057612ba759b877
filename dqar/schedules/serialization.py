"""A static plan as a JSON file that a person can read.

    {"schema_version": 1, "sites": ["attn"], "num_layers": 3, "actions": ["compute", "reuse"],
     "table": ["000", "111", "000"], "sampler": "DDIMScheduler", "timesteps": [999, 500, 1]}

A row of the table is a step, and a digit the action of a gate by its place in ``actions``, which
also names ``forecast1`` and ``forecast2`` where the plan has such. A plan with error feedback has
its gain under ``feedback``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dqar.schedules.static_plan import Action, StaticPlan

SCHEMA_VERSION = 1
"""Version of the file."""
MAX_BYTES = 16 * 2**20
"""Size of a file beyond which it is no plan; 1000 steps of 100 blocks take a hundredth of it."""


def _is_list_of(*kinds: type) -> Callable[[object], bool]:
    # By type and not by instance, since a truth is an int.
    return lambda value: isinstance(value, list) and all(type(item) in kinds for item in value)


KINDS: dict[str, tuple[Callable[[object], bool], str]] = {
    "sites": (_is_list_of(str), "a list of names"),
    "num_layers": (lambda value: type(value) is int, "a whole number"),
    "actions": (_is_list_of(str), "a list of names"),
    "table": (_is_list_of(str), "a list of strings"),
    "sampler": (lambda value: isinstance(value, str), "a name"),
    "timesteps": (_is_list_of(int, float), "a list of numbers"),
    "feedback": (lambda value: type(value) in (int, float), "a number"),
}
"""What each field of a file must be, besides the schema version."""


def save_plan(plan: StaticPlan, path: str | Path) -> None:
    """Write a plan; its folder is made if missing."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(plan_document(plan), indent=1) + "\n", encoding="utf-8")


def plan_document(plan: StaticPlan) -> dict[str, Any]:
    """A plan as its file's JSON."""
    return {
        "schema_version": SCHEMA_VERSION,
        "sites": plan.sites,
        "num_layers": plan.num_layers,
        "actions": [action.name.lower() for action in _named(plan)],
        "table": ["".join(str(int(action)) for action in row) for row in plan.table],
        "sampler": plan.sampler,
        "timesteps": plan.timesteps,
        # Only where there is some, so that earlier releases read plans without.
        **({"feedback": plan.feedback} if plan.feedback else {}),
    }


def _named(plan: StaticPlan) -> list[Action]:
    """Up to the highest order there is, so that earlier releases read plans without forecasts."""
    return [action for action in Action if action.order <= plan.forecast_order]


def load_plan(path: str | Path) -> StaticPlan:
    """Read a plan.

    Raises:
        ValueError: naming the file, what is wrong with it, and the mend.
    """
    path = Path(path)
    stored = _read(path)
    if stored.get("schema_version") != SCHEMA_VERSION:
        raise ValueError(
            f"{path} must have schema version {SCHEMA_VERSION}. Got "
            f"{stored.get('schema_version')!r:.40}. Export the plan again with this release."
        )
    try:
        return plan_of_document(stored)
    except (ValueError, OverflowError) as error:  # an integer may be too large for a float
        raise ValueError(f"{path} does not describe a plan: {error}") from error


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES} bytes")
        stored = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(stored, dict):
            raise ValueError(f"a {type(stored).__name__} in place of an object")
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} must be a plan's JSON. Got: {error}. Pass a file that save_plan wrote."
        ) from error
    return stored


def plan_of_document(stored: dict[str, Any]) -> StaticPlan:
    """The plan of a file's JSON.

    Raises:
        ValueError, OverflowError: saying what is wrong with it.
    """
    stored = {"feedback": 0.0} | stored
    if stored.keys() - {"schema_version"} != KINDS.keys():
        raise ValueError(
            f"It must have the fields {tuple(KINDS)}. Got {sorted(stored)!s:.200}. Export it again."
        )
    for name, (is_right, kind) in KINDS.items():
        if not is_right(stored[name]):
            raise ValueError(
                f"{name} must be {kind}. Got {stored[name]!r:.60}. Export the plan again."
            )
    actions = _actions(stored["actions"])
    return StaticPlan(
        sites=tuple(stored["sites"]),
        num_layers=stored["num_layers"],
        table=tuple(_row(row, actions) for row in stored["table"]),
        sampler=stored["sampler"],
        timesteps=tuple(map(float, stored["timesteps"])),
        feedback=float(stored["feedback"]),
    )


def _actions(names: list) -> dict[str, Action]:
    """Actions by their digit in this file."""
    known = {action.name.lower(): action for action in Action}
    if len(names) > 10 or not known.keys() >= set(names):
        raise ValueError(
            f"actions must be among {tuple(known)}. Got {names!r:.80}. "
            "Read the plan with the release that wrote it."
        )
    return {str(place): known[name] for place, name in enumerate(names)}


def _row(row: str, actions: dict[str, Action]) -> tuple[Action, ...]:
    if not set(row) <= actions.keys():
        raise ValueError(
            f"A step must be a string of the digits {''.join(actions)}. Got {row!r:.40}. "
            "Export the plan again."
        )
    return tuple(actions[digit] for digit in row)
