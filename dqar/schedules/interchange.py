"""Plans in the formats of other programs: lists of steps and gates, and cache-dit's configuration.

cache-dit (https://github.com/vipshop/cache-dit, read at 1.5.3) caches the residual of all blocks
after the first few, and takes a mask of the steps that compute. It has no error feedback, always
computes at least the first block, and forecasts with its own Taylor series.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

FIX = (
    "Export a plan whose steps each compute all gates or none, such as a policy's or a regular "
    'interval\'s, or take the format "gates".'
)


def export_table(
    reuse: Bool[Tensor, "t g"],
    orders: Int[Tensor, "t g"],
    feedback: float,
    format: str,
    path: str | Path | None,
) -> Any:
    """Return a plan's table in a format, and write it to a path that is given."""
    if format not in FORMATS:
        raise ValueError(
            f"format must be one of {tuple(FORMATS)}. Got {format!r:.60}. Pass 'cache-dit'."
        )
    exported = FORMATS[format](reuse, orders, feedback)
    if path is not None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        text = _yaml(exported) if format == "cache-dit" else json.dumps(exported) + "\n"
        path.write_text(text, encoding="utf-8")
    return exported


def step_mask(reuse: Bool[Tensor, "t g"]) -> list[int]:
    """Return 1 for each step that computes all gates, and 0 for each step that computes none.

    Raises:
        ValueError: if a step computes some gates only.
    """
    mixed = (reuse.any(dim=1) != reuse.all(dim=1)).nonzero().flatten().tolist()
    if mixed:
        raise ValueError(
            f"A mask of steps must come from a plan whose steps compute all gates or none. Got "
            f"{len(mixed)} steps that compute some, the first of them {mixed[0]}. {FIX}"
        )
    return (~reuse[:, 0]).int().tolist()


def gate_masks(reuse: Bool[Tensor, "t g"]) -> list[list[int]]:
    """Return, by step and gate, 1 where the gate computes and 0 where it reuses."""
    return (~reuse).int().tolist()


def cache_dit_config(
    reuse: Bool[Tensor, "t g"], orders: Int[Tensor, "t g"], feedback: float
) -> dict[str, dict[str, Any]]:
    """Return the configuration that ``cache_dit.load_configs`` reads.

    Warns:
        UserWarning: if the plan has error feedback, which cache-dit has not.
    """
    mask, order = step_mask(reuse), _order_of(reuse, orders)
    if feedback:
        warnings.warn(
            f"cache-dit has no error feedback: the plan's gain of {feedback:g} is left out. "
            "Measure the error again there.",
            stacklevel=4,
        )
    config: dict[str, Any] = {
        "num_inference_steps": len(mask),
        "steps_computation_mask": mask,
        # With "dynamic" a step of the mask's zeros computes where cache-dit's threshold says so.
        "steps_computation_policy": "static",
        "max_warmup_steps": 1,
        "Fn_compute_blocks": 1,
        "Bn_compute_blocks": 0,
    }
    if order:
        config |= {
            "enable_taylorseer": True,
            "enable_encoder_taylorseer": True,
            "taylorseer_order": order,
        }
    return {"cache_config": config}


def _order_of(reuse: Bool[Tensor, "t g"], orders: Int[Tensor, "t g"]) -> int:
    """Return the forecast order of a plan whose reuses all have the highest order that their
    history allows."""
    order = int(orders.max())
    computations_before = (~reuse).cumsum(dim=0)
    possible = (computations_before - 1).clamp(0, order)
    if not torch.equal(orders[reuse], possible[reuse]):
        raise ValueError(
            "A plan for cache-dit must forecast to one order throughout. Got several orders. Make "
            "the plan with StaticPlan.of_mask(..., forecast_order=N)."
        )
    return order


def _yaml(config: dict[str, Any]) -> str:
    import yaml

    lists = {name: value for name, value in config["cache_config"].items()}
    mask = lists.pop("steps_computation_mask")
    # The mask on one line, as people write it.
    return yaml.safe_dump({"cache_config": lists}, sort_keys=False) + (
        f"  steps_computation_mask: {json.dumps(mask)}\n"
    )


FORMATS: dict[str, Callable[[Tensor, Tensor, float], Any]] = {
    "cache-dit": cache_dit_config,
    "list": lambda reuse, orders, feedback: step_mask(reuse),
    "gates": lambda reuse, orders, feedback: gate_masks(reuse),
}
"""Function of each format, of a plan's mask, forecast orders and feedback gain."""
