"""Synthetic traces, written without sampling a model.

Schedules are drawn by the exploration design ``paced``, errors follow from a known damage, and all
layers of a step have the same values.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dqar.records import FEATURES
from pipeline.exploration.collect_plan import CollectPlan, Unit
from pipeline.exploration.designs import explore
from pipeline.traces.commit import claim_output, write_manifest
from pipeline.traces.tables import commit_unit

LAYERS, STEPS, MASKS = 28, 50, 3
"""Layers of DiT-XL/2, steps of DDIM-50, the plan's default of trajectories a noise sample."""
A_UNIT = 360
"""Trajectories in a shard."""
DISTINCT = 720
"""Number of different schedules; further trajectories repeat them with other errors."""


def plan_of(rows: int, batch_size: int = A_UNIT) -> CollectPlan:
    """Return the plan of a collection with at least ``rows`` gate rows."""
    return CollectPlan(
        model="synthetic",
        model_hash="0" * 16,
        num_trajectories=-(-rows // (LAYERS * STEPS * MASKS)) * MASKS,
        batch_size=batch_size,
        steps=STEPS,
        forecast_orders=(0, 1, 2),
    )


def write_traces(root: Path, rows: int, *, batch_size: int = A_UNIT) -> dict[str, Any]:
    """Write a finished collection with at least ``rows`` gate rows; return its row counts."""
    plan = plan_of(rows, batch_size)
    claim_output(root, plan)
    receipts = {}
    for unit in plan.units():
        trajectories, gates = _columns(plan, unit)
        receipts[unit.unit_id] = commit_unit(root, unit, trajectories, gates, {})
    facts = {"num_layers": LAYERS, "site_flops": {"attn": 1.0}}
    manifest = write_manifest(root, plan, receipts, facts)
    return {"gate_rows": manifest["gates"], "trajectories": manifest["trajectories"]}


def _columns(plan: CollectPlan, unit: Unit) -> tuple[dict[str, Any], dict[str, Any]]:
    indices = range(unit.start, unit.stop)
    ids = [plan.trajectory_id(index) for index in indices]
    gates, damage = _gates(tuple(index % DISTINCT for index in indices))
    spread = np.random.default_rng(unit.index).normal(0.0, 0.3, len(ids))
    orders = [plan.forecast_order(index) for index in indices]
    trajectories = {
        "trajectory_id": ids,
        "noise_id": [plan.noise_id(index) for index in indices],
        "forecast_order": orders,
        "feedback": 0.0,
        "latent_rel_l2": np.sqrt(1e-6 + damage * np.exp(spread)).astype(np.float32),
        "label": 0,
        "prompt": None,
        "prompt_length": 16,
        "design": "paced",
        "exploration_rate": 0.5,
        "max_gap": 12,
        "psnr": 30.0,
        "ssim": 0.9,
        "feature_distance": None,
        "model": plan.model,
        "model_hash": plan.model_hash,
        "sampler": plan.sampler,
        "steps": plan.steps,
        "guidance": plan.guidance_scale,
        "cache_mode": "int8",
        "dtype": "fp32",
        "device": "synthetic",
        "schema_version": plan.schema_version,
    }
    of_gate = np.repeat(np.array(orders), STEPS * LAYERS)
    shown = np.array(["reuse", "forecast1", "forecast2"])[of_gate]
    gates |= {
        "trajectory_id": np.repeat(ids, STEPS * LAYERS),
        "order": of_gate.astype(np.float32),
        "feedback": 0.0,
        "action": np.where(gates["reason"] == "reuse", shown, "compute"),
    }
    return trajectories, gates


@lru_cache(maxsize=2)
def _gates(scripts: tuple[int, ...]) -> tuple[dict[str, Any], np.ndarray]:
    """Columns of the gates of some schedules, and the damage of each trajectory."""
    each = [_script(index) for index in scripts]
    rows = {
        name: np.repeat(np.stack([one[name] for one in each]).ravel(), LAYERS) for name in each[0]
    }
    reuse = rows.pop("reuse") > 0
    damage = np.stack([one["damage"] for one in each]).sum(axis=1) * LAYERS
    del rows["damage"]
    layer = np.tile(np.arange(LAYERS), len(each) * STEPS)
    floats = dict.fromkeys(FEATURES, np.zeros(len(layer), dtype=np.float32))
    return floats | rows | {
        "depth": (layer / (LAYERS - 1)).astype(np.float32),
        "layer": layer,
        "site": "attn",
        "branch_mode": "tied",
        "eligible": rows["step"] > 0,
        "reason": np.where(reuse, "reuse", "script"),
        "draw_id": rows["step"],
        "timestep": 1000.0 - 20.0 * rows["step"],
        "local_rel_error": np.where(rows["step"] > 0, 0.01, np.nan),
    }, damage


def _spans(computed: np.ndarray) -> np.ndarray:
    """Steps between the last two computations at each step; 0.5 if there was only one."""
    places = np.unique(computed)
    spans = np.concatenate([[0.5], np.diff(places)])
    return spans[np.searchsorted(places, computed)]


def _script(index: int) -> dict[str, np.ndarray]:
    """Values of a schedule's columns at each step, and the damage of one gate at that step."""
    script = explore(("paced",), 0, index, STEPS, 1)
    eligible = torch.ones(STEPS, 1, dtype=torch.bool)
    eligible[0] = False
    reuse = (script.wants_reuse & eligible)[:, 0].numpy()
    step = np.arange(STEPS)
    computed = np.maximum.accumulate(np.where(reuse, 0, step))
    gap = np.maximum(step - computed, 0.5)
    progress = step / (STEPS - 1)
    span = _spans(computed)
    values = {
        "step": step,
        "reuse": reuse,
        "progress": progress,
        "log_snr": 6.0 * progress - 4.0,
        "log_progress": np.log(progress + 0.02),
        "log_remaining": np.log(1.02 - progress),
        "log_gap": np.log(gap),
        "log_span": np.log(span),
        "log_span_before": np.log(span),
        "propensity": script.propensity(eligible)[:, 0].numpy(),
        "damage": np.where(reuse, np.exp(1.5 * np.log(gap) - 11.0), 0.0),
    }
    return {
        name: value.astype(np.float32) if value.dtype == float else value
        for name, value in values.items()
    }
