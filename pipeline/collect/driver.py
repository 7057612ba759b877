"""Driver of a collection: hands the missing units of a plan to workers, then publishes a manifest.

:func:`collect` runs an actor pool of :class:`pipeline.collect.worker.Collector`. Workers write the
tables; the driver receives their receipts and no tensor.
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
from pipeline.exploration.collect_plan import FEEDBACKS, FORECAST_ORDERS, CollectPlan, UnitsLeft
from pipeline.exploration.designs import parse_designs
from pipeline.exploration.near_policy import ReferencePolicy
from pipeline.models.loading import refuse_unloadable
from pipeline.models.model_info import find_model, refuse_too_many_steps
from pipeline.models.sampling_choices import SAMPLER, SITES, STEPS
from pipeline.progress import Progress, fields_line
from pipeline.storage.object_store import Root, Storage, open_storage
from pipeline.storage.unfinished_folder import work_begun
from pipeline.traces.commit import committed_receipts, write_manifest

FIRST_ROUND = {
    "steps": STEPS,
    "sampler": SAMPLER,
    "sites": SITES,
    "forecast_orders": FORECAST_ORDERS,
    "feedbacks": FEEDBACKS,
}
"""Fields of a plan where neither a flag nor the policy to explore around sets them."""


def collect(
    plan: CollectPlan,
    root: Root,
    cluster_config: ClusterConfig,
    on_receipt: Callable[[dict[str, Any]], None] = lambda receipt: None,
    check_not_fenced: Callable[[], None] = lambda: None,
    worker: type[Collector] = Collector,
) -> dict[str, Any]:
    """Collect the missing units of a plan, then publish the manifest and return it.

    A repeated call resumes: units with a receipt and sound shards are not collected again, units
    in quarantine are. A unit that fails does not stop the remaining units.

    Args:
        on_receipt: called with the receipt of each unit that is done.
        check_not_fenced: raises if another driver has taken over the folder; called before
            anything is published.
        worker: class of the workers.

    Raises:
        InputError: if a worker refuses its input, or all of the first units diverge.
        IncompleteError: if units were given up, or storage fails. No manifest is published then.
    """
    storage = open_storage(root)
    with work_begun(storage):
        return _collect(plan, storage, cluster_config, on_receipt, check_not_fenced, worker)


def _collect(
    plan: CollectPlan,
    storage: Storage,
    cluster_config: ClusterConfig,
    on_receipt: Callable[[dict[str, Any]], None],
    check_not_fenced: Callable[[], None],
    worker: type[Collector],
) -> dict[str, Any]:
    receipts = committed_receipts(storage, plan)
    put_aside = quarantined(storage)
    release(storage, put_aside & receipts.keys())
    missing = UnitsLeft(plan=plan, done=frozenset(receipts))
    if done := sum(receipt["trajectories"] for receipt in receipts.values()):
        print(
            f"collect: {done} trajectories were committed before, by an earlier run into {storage}",
            flush=True,
        )
    given_up: list[WorkResult] = []
    if missing:
        pool = ActorPool(worker, {"plan": plan, "root": storage}, cluster_config)
        for outcome in _results_with_progress(pool, plan, missing, done):
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


def _results_with_progress(
    pool: ActorPool, plan: CollectPlan, missing: UnitsLeft, done: int
) -> Iterator[WorkResult]:
    """Yield the result of each unit, with a log line a unit, a progress line and Ray metrics."""
    progress = Progress("collect", plan.num_trajectories, "trajectories")
    progress.start_at(done)
    for outcome in pool.map_unordered(missing):
        progress.log(unit_line(outcome))
        if outcome.failure is None:
            pool.count("trajectories", outcome.result["trajectories"])
            pool.count("gate_rows", outcome.result["gates"])
            progress.advance(len(outcome.unit))
        yield outcome


def unit_line(outcome: WorkResult) -> str:
    """Format the log line of a unit that is done or given up, as ``key=value`` words."""
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
    """Return the plan of a command line.

    A field that is None takes the value of the policy to explore around. Without such a policy,
    :data:`FIRST_ROUND` and the guidance scale that the model recommends apply.

    Raises:
        InputError: if the model cannot be found, a field is out of range, or the policy was
            trained for other settings.
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
        reference_policy.refuse_misfit(fields, info.num_layers)
    with input_errors():
        plan = CollectPlan(designs=parse_designs(designs), **fields)
    refuse_unloadable(info, plan.sampler, plan.steps)
    return plan
