"""The driver of a collection: hands out what is missing of a plan, and publishes what is whole.

:func:`collect` drives an actor pool of :class:`pipeline.collect.worker.Collector`; no tensor passes
by here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from pipeline.cluster.actor_pool import ActorPool
from pipeline.cluster.config import ClusterConfig
from pipeline.cluster.work_queue import WorkResult
from pipeline.collect.quarantine import (
    quarantine,
    quarantined,
    refuse_hopeless,
    refuse_incomplete,
    release,
)
from pipeline.collect.worker import Collector
from pipeline.errors import input_errors
from pipeline.exploration.collect_plan import FEEDBACKS, FORECAST_ORDERS, CollectPlan, Unit
from pipeline.exploration.designs import parse_designs
from pipeline.exploration.near_policy import ReferencePolicy
from pipeline.models.model_info import find_model, refuse_too_many_steps
from pipeline.models.sampling_choices import SAMPLER, SITES, STEPS
from pipeline.progress import Progress, fields_line
from pipeline.storage.object_store import Root, open_storage
from pipeline.traces.commit import committed_receipts, write_manifest

FIRST_ROUND = {
    "steps": STEPS,
    "sampler": SAMPLER,
    "sites": SITES,
    "forecast_orders": FORECAST_ORDERS,
    "feedbacks": FEEDBACKS,
}
"""What is collected where neither a flag nor a policy says otherwise."""


def collect(
    plan: CollectPlan,
    root: Root,
    cluster_config: ClusterConfig,
    on_receipt: Callable[[dict[str, Any]], None] = lambda receipt: None,
    check_not_fenced: Callable[[], None] = lambda: None,
    worker: type[Collector] = Collector,
) -> dict[str, Any]:
    """Collect what is missing of a plan, then publish the manifest, which is returned.

    Running it again resumes: units with a receipt and whole shards are not collected again, those
    in quarantine are. A unit that fails does not stop the others.

    Args:
        refuse_fenced: raises, before anything is published, where another driver has taken over.

    Raises:
        Refusal: if a worker refuses its input, or the model diverges whatever it samples.
        Unfinished: if units were given up. No manifest is published then.
    """
    storage = open_storage(root)
    receipts = committed_receipts(storage, plan)
    put_aside = quarantined(storage)
    release(storage, put_aside & receipts.keys())
    missing = [unit for unit in plan.units() if unit.unit_id not in receipts]
    if done := plan.num_trajectories - sum(map(len, missing)):
        print(f"collect: {done} trajectories were committed before", flush=True)
    given_up: list[WorkResult] = []
    if missing:
        pool = ActorPool(worker, {"plan": plan, "root": storage}, cluster_config)
        for outcome in _followed(pool, plan, missing):
            if outcome.failure is None:
                receipts[outcome.unit.unit_id] = outcome.result
                release(storage, put_aside & {outcome.unit.unit_id})
                on_receipt(outcome.result)
            else:
                check_not_fenced()
                given_up.append(outcome)
                quarantine(storage, outcome)
                refuse_hopeless(given_up, num_done=len(receipts), num_missing=len(missing))
    refuse_incomplete(storage, given_up)
    info = find_model(plan.model)
    facts = {"num_layers": info.num_layers, "site_flops": info.site_flops}
    check_not_fenced()
    return write_manifest(storage, plan, receipts, facts)


def _followed(pool: ActorPool, plan: CollectPlan, missing: list[Unit]) -> Iterator[WorkResult]:
    """What becomes of the units, with a line for each and for the whole, and metrics."""
    progress = Progress("collect", plan.num_trajectories, "trajectories")
    progress.start_at(plan.num_trajectories - sum(map(len, missing)))
    for outcome in pool.map_unordered(missing):
        progress.log(unit_line(outcome))
        if outcome.failure is None:
            pool.count("trajectories", outcome.result["trajectories"])
            pool.count("gate_rows", outcome.result["gates"])
            progress.advance(len(outcome.unit))
        yield outcome


def unit_line(outcome: WorkResult) -> str:
    """What a log says of a unit, as ``key=value`` words."""
    unit, receipt = outcome.unit, outcome.result or {}
    return fields_line(
        "collect:",
        unit=unit.unit_id,
        index=unit.index,
        status="given_up" if outcome.failure else "done",
        attempt=outcome.attempts,
        node=outcome.node,
        seconds=round(outcome.seconds, 2),
        trajectories=receipt.get("trajectories", 0),
        gates=receipt.get("gates", 0),
    )


def plan_for(
    model: str, *, designs: str, reference_policy: ReferencePolicy | None = None, **fields: Any
) -> CollectPlan:
    """The plan of a command line; what was left out (None) follows the policy that is explored
    around, else the model.

    Raises:
        Refusal: if the model cannot be found, a field is out of range, or the policy is for others.
    """
    info = find_model(model)
    follows = (
        reference_policy.fields
        if reference_policy
        else FIRST_ROUND | {"guidance_scale": info.guidance_scale}
    )
    given = {name: value for name, value in fields.items() if value is not None}
    fields = follows | given | {"model": model, "model_hash": info.model_hash}
    refuse_too_many_steps(info, fields["steps"])
    if reference_policy:
        reference_policy.refuse_misfit(fields)
    with input_errors():
        return CollectPlan(designs=parse_designs(designs), **fields)
