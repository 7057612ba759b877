"""Static plans as JSON files that a person can read.

    {"schema_version": 1, "sites": ["attn"], "num_layers": 3, "actions": ["compute", "reuse"],
     "table": ["000", "111", "000"], "sampler": "DDIMScheduler", "timesteps": [999, 500, 1]}

A string of ``table`` is a step, and a digit in it the action of one gate: the index in ``actions``,
which also names ``forecast1`` and ``forecast2`` where the plan holds such actions. ``feedback`` is
the gain of the error feedback; plans without error feedback leave the key out. ``stacks`` describes
the blocks of a model whose layers differ in their sites.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dqar.foreign_files import read_json, spelled
from dqar.gate_table import StackShape
from dqar.policy.serialization import load_policy
from dqar.registry import is_registered, local_folder
from dqar.sampler_names import MAX_SAMPLER
from dqar.schedules.policy_plan import plan_of_policy
from dqar.schedules.static_plan import Action, StaticPlan
from dqar.validation import shown, validate

SCHEMA_VERSION = 1
"""Version of the file."""
MAX_BYTES = 4 * 2**20
"""Largest size of a plan's file in bytes; 1000 steps of 100 blocks take a thirtieth of it."""

PLAN = "reuse_plan.json"
"""Name of a plan's file in a folder of its own."""
FIX = "Export the plan again."


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanDocument:
    """The file's JSON."""

    schema_version: int = SCHEMA_VERSION
    sites: tuple[str, ...]
    num_layers: int
    actions: tuple[str, ...]
    """Names of the actions that the table holds."""
    table: tuple[str, ...]
    """A string for each step, with the place of each gate's action among ``actions``."""
    sampler: str
    timesteps: tuple[float, ...]
    feedback: float = 0.0
    stacks: tuple[StackShape, ...] = ()


def save_plan(plan: StaticPlan, path: str | Path) -> None:
    """Write a plan; the folder is created where it is missing."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(plan_document(plan), indent=1) + "\n", encoding="utf-8")


def plan_document(plan: StaticPlan) -> dict[str, Any]:
    """Return the JSON values of a plan's file."""
    return {
        "schema_version": SCHEMA_VERSION,
        "sites": plan.sites,
        "num_layers": plan.num_layers,
        "actions": [action.name.lower() for action in _named(plan)],
        "table": ["".join(str(int(action)) for action in row) for row in plan.table],
        "sampler": plan.sampler,
        "timesteps": plan.timesteps,
        # Left out at 0, so that earlier releases read plans without error feedback.
        **({"feedback": plan.feedback} if plan.feedback else {}),
        **({"stacks": [_stack(stack) for stack in plan.stacks]} if plan.stacks else {}),
    }


def _stack(stack: StackShape) -> dict[str, Any]:
    return asdict(stack) | {"absent": sorted(stack.absent)}


def _named(plan: StaticPlan) -> list[Action]:
    """Return the actions up to the plan's highest forecast order: earlier releases, which know no
    forecasts, read plans without them."""
    return [action for action in Action if action.order <= plan.forecast_order]


def load_plan(path: str | Path, tracking_uri: str | None = None) -> StaticPlan:
    """Read a plan, or take the default schedule of a policy for one.

    Args:
        path: file of :func:`save_plan`, or a folder with it as ``reuse_plan.json``; or a policy
            folder; or the URI of a registered policy (``models:/dqar-policy@champion``), or of a
            repository on the Hugging Face Hub (``hf://OWNER/NAME``).
        tracking_uri: MLflow store of a registered policy; None for ``MLFLOW_TRACKING_URI``.

    Raises:
        ValueError: naming the file, what is wrong with it, and the fix.
    """
    if not is_registered(path) and not Path(path).is_dir():
        return _read(Path(path))
    with local_folder(path, tracking_uri) as folder:
        if (folder / PLAN).is_file():
            return _read(folder / PLAN)
        return plan_of_policy(load_policy(folder))


def _read(path: Path) -> StaticPlan:
    fix = "Pass a file that save_plan wrote."
    stored = read_json(path, what="a plan", fix=fix, max_bytes=MAX_BYTES)
    if (version := stored.get("schema_version")) != SCHEMA_VERSION:
        raise ValueError(
            f"{spelled(path)} must have schema version {SCHEMA_VERSION}. Got {shown(version)}. "
            "Export the plan again with this release."
        )
    try:
        return plan_of_document(stored)
    except ValueError as error:
        raise ValueError(f"{spelled(path)} does not describe a plan: {error}") from error


def plan_of_document(stored: dict[str, Any]) -> StaticPlan:
    """Return the plan of a file's JSON.

    Raises:
        ValueError: one line that names the field that is wrong.
    """
    document = validate(stored, PlanDocument, fix=FIX, extra="forbid")
    actions = _actions(document.actions)
    if len(document.sampler) > MAX_SAMPLER:
        raise ValueError(
            f"sampler must be a name of at most {MAX_SAMPLER} characters. Got "
            f"{shown(document.sampler)}. {FIX}"
        )
    return StaticPlan(
        sites=document.sites,
        num_layers=document.num_layers,
        table=tuple(_row(row, actions) for row in document.table),
        sampler=document.sampler,
        timesteps=document.timesteps,
        feedback=document.feedback,
        stacks=document.stacks,
    )


def _actions(names: tuple[str, ...]) -> dict[str, Action]:
    """Return the actions by their digit in this file."""
    known = {action.name.lower(): action for action in Action}
    if len(names) > 10 or not known.keys() >= set(names):
        raise ValueError(
            f"actions must be among {tuple(known)}. Got {shown(names)}. "
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
