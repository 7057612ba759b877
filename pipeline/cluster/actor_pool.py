"""A fleet of Ray actors works through units: one in flight each, dead workers replaced.

An actor loads its model once; a unit goes to whichever actor is ready, and workers are added as
nodes join. Ray retries nothing by itself: a unit whose worker died or that raised is handed out
again, as often as :class:`pipeline.cluster.work_queue.WorkQueue` says. Ray is imported here and in
:mod:`pipeline.cluster.ray_cluster` alone.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from pipeline.cluster.capacity import Cluster, capacity, check_feasible, resource_request
from pipeline.cluster.config import ClusterConfig
from pipeline.cluster.ray_cluster import Meters, cluster_around, join_ray
from pipeline.cluster.work_queue import Failure, WorkItem, WorkQueue, WorkResult
from pipeline.errors import IncompleteError, InputError, StorageError

LOOK_EVERY_S = 5.0
"""How often the fleet looks for nodes that joined."""
HINT_EVERY_S = 60.0
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
"""Of a terminal, which Ray writes into tracebacks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _ActorState:
    """What an actor does right now."""

    actor: Any
    node: str = ""
    """Address of its node, once it runs."""
    item: WorkItem | None = None
    """Its unit; None while it starts."""
    since: float = 0.0


class ActorPool:
    """Actors of one class, each built with the same arguments, each with a method ``do``."""

    def __init__(self, worker: type, arguments: dict[str, Any], config: ClusterConfig) -> None:
        join_ray()
        self.config = config
        cluster = cluster_around()
        self.ask = resource_request(config.gpus_per_worker, config.accelerator_type, cluster)
        self._check_capacity(cluster)
        self.num_workers = config.workers or capacity(self.ask, cluster)
        self._remote = ray.remote(**self.ask.options(), max_restarts=0)(worker)
        self._worker_name = worker.__name__
        self._arguments = arguments
        self._actors: list[Any] = []
        self._states: dict[Any, _ActorState] = {}
        self._made = 0
        self._failed_starts, self._has_started = 0, False
        self._looked_at = self._staffed_at = self._hinted_at = time.monotonic()
        self._meters = Meters(worker.__name__)

    def _check_capacity(self, cluster: Cluster) -> None:
        feasibility = check_feasible(self.ask, cluster)
        if feasibility.when == "never" and self.config.worker_timeout_minutes is None:
            raise InputError(feasibility.line)
        if feasibility.line:
            print(feasibility.line, flush=True)

    def count(self, what: str, amount: int | float) -> None:
        """Add to one of the counters that Ray exports: ``trajectories`` or ``gate_rows``."""
        self._meters.count(what, amount)

    def map_strict(self, units: Sequence[Any]) -> Generator[tuple[Any, Any], None, None]:
        """Yield ``(unit, result)`` as units finish, in any order; one that fails ends the work.

        Raises:
            RuntimeError: if a unit's worker died ``max_attempts`` times.
            Exception: what a unit raised.
        """
        # Closed here rather than when it is collected, so that no worker outlives a failure.
        with closing(self._run(units, max_errors=1)) as results:
            for outcome in results:
                if outcome.failure is not None:
                    raise outcome.failure.error
                yield outcome.unit, outcome.result

    def map_unordered(self, units: Sequence[Any]) -> Generator[WorkResult, None, None]:
        """Yield what became of each unit, in any order; one that fails does not stop the others.

        Raises:
            InputError: if a worker refuses its input.
        """
        return self._run(units, max_errors=self.config.max_errors)

    def _run(self, units: Sequence[Any], *, max_errors: int) -> Generator[WorkResult, None, None]:
        queue = WorkQueue(units, max_deaths=self.config.max_attempts, max_errors=max_errors)
        self._staffed_at = time.monotonic()
        for _ in range(min(self.num_workers, len(units))):
            self._start_worker()
        try:
            while queue.left:
                for reference in self._ready():
                    outcome = self._handle_result(queue, reference)
                    if outcome is not None:
                        yield outcome
                self._check_cluster(queue)
        finally:
            self._shutdown()

    def _ready(self) -> list[Any]:
        ready, others = ray.wait(list(self._states), num_returns=1, timeout=LOOK_EVERY_S)
        # Whatever else is ready by now: waiting for one costs as much as all references.
        return ready + (ray.wait(others, num_returns=len(others), timeout=0)[0] if others else [])

    def _check_cluster(self, queue: WorkQueue) -> None:
        now = time.monotonic()
        if now - self._looked_at < LOOK_EVERY_S:
            return
        self._looked_at = now
        at_work = sum(state.item is not None for state in self._states.values())
        self._meters.show(units_in_flight=at_work, queue_depth=len(queue.waiting))
        # Nodes that joined are used, unless the number of workers was given.
        if self.config.workers == 0 and queue.waiting:
            wanted = min(capacity(self.ask, cluster_around()), len(queue.waiting) + at_work)
            for _ in range(wanted - len(self._states)):
                self._start_worker()
        self._check_worker_timeout(now, is_anyone_working=at_work > 0)
        for state in self._states.values():
            if self._is_hung(state):
                # Its unit comes back as that of any dead worker.
                self._kill(state.actor)

    def _is_hung(self, state: _ActorState) -> bool:
        limit = 60.0 * self.config.unit_timeout_minutes
        return state.item is not None and time.monotonic() - state.since > limit

    def _check_worker_timeout(self, now: float, *, is_anyone_working: bool) -> None:
        if is_anyone_working:
            self._staffed_at = now
        waited, limit = now - self._staffed_at, self.config.worker_timeout_minutes
        if limit is not None and waited > 60.0 * limit:
            raise IncompleteError(
                f"No worker could be had for {waited / 60:.0f} minutes; each needs {self.ask}. "
                "The same command again takes up where this one stopped."
            )
        if min(waited, now - self._hinted_at) > HINT_EVERY_S:
            self._hinted_at = now
            why = (
                check_feasible(self.ask, cluster_around()).line
                or "Its node is busy, or it is starting."
            )
            print(f"Still waiting for a worker. {why}", flush=True)

    def _start_worker(self) -> None:
        actor = self._create_actor()
        starting = actor.__ray_call__.remote(_whereabouts)
        self._states[starting] = _ActorState(actor=actor)

    def _create_actor(self) -> Any:
        self._made += 1
        name = f"{self._worker_name}-{self._made}-{secrets.token_hex(3)}"
        actor = self._remote.options(name=name).remote(**self._arguments)
        self._actors.append(actor)
        return actor

    def _kill(self, actor: Any) -> None:
        ray.kill(actor)

    def _shutdown(self) -> None:
        for actor in self._actors:
            ray.kill(actor)
        self._actors.clear()
        self._states.clear()
        self._meters.show(units_in_flight=0, queue_depth=0)

    def _handle_result(self, queue: WorkQueue, reference: Any) -> WorkResult | None:
        state = self._states.pop(reference)
        try:
            result: Any = ray.get(reference)
        except RayTaskError as error:
            return self._handle_error(queue, state, error)
        except RayError as error:
            return self._handle_death(queue, state, error)
        self._failed_starts, self._has_started = 0, True
        if state.item is None:
            self._assign(queue, state.actor, node=result)
            return None
        queue.finish()
        self._assign(queue, state.actor, state.node)
        self._meters.count("units", 1)
        return _outcome(state, state.item.attempts + 1, result=result)

    def _assign(self, queue: WorkQueue, actor: Any, node: str) -> None:
        nodes = {node} | {state.node for state in self._states.values() if state.item is not None}
        item = queue.take(node, nodes)
        if item is None:
            # An idle worker would keep its GPU from the one that takes over a dead one's unit.
            self._kill(actor)
            return
        reference = actor.do.remote(item.unit)
        self._states[reference] = _ActorState(
            actor=actor, node=node, item=item, since=time.monotonic()
        )

    def _handle_error(
        self, queue: WorkQueue, state: _ActorState, error: RayTaskError
    ) -> WorkResult | None:
        # A full disk or a broken mount of one node is no bad input.
        if isinstance(error.cause, InputError) and not isinstance(error.cause, StorageError):
            raise InputError(str(error.cause)) from error
        if state.item is None:
            raise error
        # After some errors a process can do no more, as when its CUDA context is lost.
        item = state.item.failed(state.node)
        return self._replace(queue, state, item, error, COLOURS.sub("", str(error)))

    def _handle_death(
        self, queue: WorkQueue, state: _ActorState, error: RayError
    ) -> WorkResult | None:
        if state.item is None:
            self._count_failed_start(error)
            if queue.waiting:
                self._start_worker()
            return None
        item, why = state.item.died(), str(error)
        if self._is_hung(state):
            minutes = self.config.unit_timeout_minutes
            why = (
                f"It took longer than {minutes:g} minutes: it hangs, or needs "
                "--unit-timeout-minutes."
            )
        told = f"A worker died {item.deaths} times over {item.unit}. The last: {why}"
        return self._replace(queue, state, item, RuntimeError(told), why)

    def _replace(
        self, queue: WorkQueue, state: _ActorState, item: WorkItem, error: Exception, text: str
    ) -> WorkResult | None:
        # Not only the dead: one that cannot be reached may still write.
        self._kill(state.actor)
        is_tried_again = queue.give_back(item)
        if queue.waiting:
            self._start_worker()
        if not is_tried_again:
            self._meters.count("given_up", 1)
            return _outcome(state, item.attempts, failure=Failure(error=error, text=text))
        self._meters.count("retries", 1)
        line = text.strip().splitlines()[-1][:160]
        print(f"{item.unit} is tried again after attempt {item.attempts}: {line}", flush=True)
        return None

    def _count_failed_start(self, error: RayError) -> None:
        self._failed_starts += 1
        last_line = str(error).strip().splitlines()[-1]
        kind, _, message = last_line.partition(": ")
        # Once workers have started, one that refuses is on a node that is not like the others.
        if kind.endswith("InputError") and not self._has_started:
            raise InputError(message) from error
        is_bug = isinstance(error, RayActorError) and error.actor_init_failed
        # A reclaimed node takes all of its starting workers with it, which says nothing of them.
        is_too_often = self._failed_starts >= self.config.max_attempts * self.num_workers
        if is_too_often or (is_bug and not self._has_started):
            raise RuntimeError(
                f"No worker could start: {self._failed_starts} in a row failed. The last: "
                f"{last_line}"
            ) from error


def _whereabouts(worker: Any) -> str:
    return f"{ray.util.get_node_ip_address()}/{ray.get_runtime_context().get_node_id()[:8]}"


def _outcome(
    state: _ActorState, attempts: int, *, result: Any = None, failure: Failure | None = None
) -> WorkResult:
    assert state.item is not None
    return WorkResult(
        unit=state.item.unit,
        attempts=attempts,
        node=state.node,
        seconds=time.monotonic() - state.since,
        result=result,
        failure=failure,
    )
