"""Traces of two units with made-up values, as small as a dataset can be."""

import itertools
import math

import pyarrow as pa

from pipeline.exploration.collect_plan import CollectPlan
from pipeline.traces.tables import GATES, TRAJECTORIES, commit_unit

STEPS, LAYERS = 3, 2
FACTS = {"num_layers": LAYERS, "site_flops": {"attn": 1.0}}
PLAN = CollectPlan(
    model="digits", model_hash="0" * 16, num_trajectories=10, batch_size=6, steps=STEPS
)


def filled(schema):
    """Some value of the right type for every column."""
    return {
        field.name: "x" if pa.types.is_string(field.type) else pa.scalar(1, field.type).as_py()
        for field in schema
        if not pa.types.is_boolean(field.type)
    }


def columns_of(unit, plan=PLAN):
    ids = [plan.trajectory_id(index) for index in range(unit.start, unit.stop)]
    trajectories = filled(TRAJECTORIES) | {
        "trajectory_id": ids,
        "noise_id": [plan.noise_id(index) for index in range(unit.start, unit.stop)],
        "prompt": None,
        "design": "independent",
        "latent_rel_l2": [0.25 * index for index in range(len(ids))],
        "psnr": 30.0,
        "feature_distance": None,
    }
    cells = list(itertools.product(ids, range(STEPS), range(LAYERS)))
    is_reused = [step > 0 and (step + layer) % 2 == 0 for _, step, layer in cells]
    gates = filled(GATES) | {
        "trajectory_id": [cell[0] for cell in cells],
        "step": [cell[1] for cell in cells],
        "timestep": [900.0 - cell[1] for cell in cells],
        "layer": [cell[2] for cell in cells],
        "site": "attn",
        "eligible": [cell[1] > 0 for cell in cells],
        "reason": ["reuse" if reused else "script" for reused in is_reused],
        "draw_id": list(range(len(cells))),
        "action": ["reuse" if reused else "compute" for reused in is_reused],
        "local_rel_error": [math.nan if cell[1] == 0 else 0.125 for cell in cells],
    }
    return trajectories, gates


def commit_all(root, plan=PLAN, units=None):
    units = list(plan.units()) if units is None else units
    return {u.unit_id: commit_unit(root, u, *columns_of(u, plan), {"seconds": 1}) for u in units}
