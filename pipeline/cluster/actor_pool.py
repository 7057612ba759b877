"""Pool of Ray actors that works through units: one unit in flight for each actor.

An actor loads its model once; a unit goes to the next actor that is ready. Actors are added as
nodes join, and dead or hanging ones are replaced. Ray's own retries are off: a unit whose worker
died or that raised is handed out again, as often as
:class:`pipeline.cluster.work_queue.WorkQueue` allows. Ray is imported only here and in
:mod:`pipeline.cluster.ray_cluster`.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Generator
from contextlib import closing
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from pipeline.cluster.actor_state import ActorState
from pipeline.cluster.capacity import Cluster, capacity, check_feasible, resource_request
from pipeline.cluster.config import ClusterConfig
from pipeline.cluster.failed_starts import FailedStarts
from pipeline.cluster.head import why_silent
from pipeline.cluster.ray_cluster import (
    Meters,
    cluster_around,
    join_ray,
    leave_lost_head,
    watch_head,
)
from pipeline.cluster.stuck_starts import START_LIMIT_S, StuckStarts, await_starts
from pipeline.cluster.work_queue import Failure, Units, WorkItem, WorkQueue, WorkResult
from pipeline.cluster.worker_wait import WorkerWait
from pipeline.errors import InputError, StorageError

LOOK_EVERY_S = 5.0
"""Seconds between two checks for new nodes, hanging workers and timeouts."""
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
"""Terminal colour codes, which Ray writes into tracebacks."""


class ActorPool:
    """Pool of actors of one class, built with the same arguments; each has a method ``do(unit)``.

    Args:
        keeps_idle: actors without work wait for the next call, with their loaded model, until
            :meth:`close`; by default they end with the work.

    Raises:
        InputError: if no node can ever hold an actor and no time to wait for one is configured.
    """

    def __init__(
        self,
        worker: type,
        arguments: dict[str, Any],
        config: ClusterConfig,
        *,
        keeps_idle: bool = False,
    ) -> None:
        join_ray()
        self._head = watch_head()
        self.config = config
        cluster = cluster_around()
        self.ask = resource_request(config.gpus_per_worker, config.accelerator_type, cluster)
        self._check_capacity(cluster)
        self.num_workers = config.workers or capacity(self.ask, cluster)
        self._remote = ray.remote(**self.ask.options(), max_restarts=0)(worker)
        self._worker_name = worker.__name__
        self._arguments = arguments
        self._actors: list[Any] = []
        self._keeps_idle = keeps_idle
        self._idle: list[Any] = []
        self._states: dict[Any, ActorState] = {}
        self._made = 0
        self._failed_starts = FailedStarts(most=config.max_attempts * self.num_workers)
        self._stuck = StuckStarts(self.ask)
        self._wait = WorkerWait(self.ask, config.worker_timeout_minutes)
        self._looked_at = time.monotonic()
        self._meters = Meters(worker.__name__)

    def _check_capacity(self, cluster: Cluster) -> None:
        feasibility = check_feasible(self.ask, cluster)
        if feasibility.when == "never" and self.config.worker_timeout_minutes is None:
            raise InputError(feasibility.line)
        if feasibility.line:
            print(feasibility.line, flush=True)

    def count(self, what: str, amount: int | float) -> None:
        """Add to a counter that Ray exports as ``ray_dqar_WHAT_total``."""
        self._meters.count(what, amount)

    def map_strict(self, units: Units) -> Generator[tuple[Any, Any], None, None]:
        """Yield ``(unit, result)`` as units finish, in any order; a unit that fails ends the work.

        Raises:
            RuntimeError: if workers died ``max_attempts`` times over one unit.
            Exception: the error that a unit raised.
        """
        # Closing the generator shuts the workers down at once, not at garbage collection.
        with closing(self._run(units, max_errors=1)) as results:
            for outcome in results:
                if outcome.failure is not None:
                    raise _cause_of(outcome.failure.error)
                yield outcome.unit, outcome.result

    def map_unordered(self, units: Units) -> Generator[WorkResult, None, None]:
        """Yield the result or the failure of each unit, in any order; a unit that fails does not
        stop the remaining units.

        Raises:
            InputError: if a worker refuses its input.
            IncompleteError: if no worker was available for the configured time, if Ray starts none,
                or if its head no longer answers.
        """
        return self._run(units, max_errors=self.config.max_errors)

    def _run(self, units: Units, *, max_errors: int) -> Generator[WorkResult, None, None]:
        queue = WorkQueue(units, max_deaths=self.config.max_attempts, max_errors=max_errors)
        self._wait.begin()
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
        # Each wait costs time proportional to all references, so take all that are ready at once.
        return ready + (ray.wait(others, num_returns=len(others), timeout=0)[0] if others else [])

    def _check_cluster(self, queue: WorkQueue) -> None:
        now = time.monotonic()
        if now - self._looked_at < LOOK_EVERY_S:
            return
        self._looked_at = now
        self._head.check()
        at_work = sum(state.item is not None for state in self._states.values())
        self._meters.show(units_in_flight=at_work, queue_depth=queue.waiting)
        # New nodes get workers, unless the number of workers was given.
        if self.config.workers == 0 and queue.waiting:
            wanted = min(capacity(self.ask, cluster_around()), queue.waiting + at_work)
            for _ in range(wanted - len(self._states)):
                self._start_worker()
        actors = (state.actor for state in self._states.values())
        self._wait.check(now, actors, is_anyone_working=at_work > 0)
        self._replace_stuck(queue, now, is_anyone_working=at_work > 0)
        for state in self._states.values():
            if self._is_hung(state):
                # The death of the killed actor then gives its unit back to the queue.
                self._kill(state.actor)

    def _is_hung(self, state: ActorState) -> bool:
        return state.is_longer_than(self.config.unit_timeout_minutes)

    def _replace_stuck(self, queue: WorkQueue, now: float, *, is_anyone_working: bool) -> None:
        starting = {key: state for key, state in self._states.items() if state.item is None}
        late = {key for key, state in starting.items() if now - state.since > START_LIMIT_S}
        stuck = self._stuck.find(
            [starting[key].actor for key in late],
            others=[state.actor for key, state in starting.items() if key not in late],
            is_anyone_working=is_anyone_working,
        )
        for key in [key for key in late if starting[key].actor in stuck]:
            self._stuck.count(self._states.pop(key).actor)
            self._kill(starting[key].actor)
            if queue.waiting:
                self._start_worker()

    def _start_worker(self) -> None:
        # An idle actor that died meanwhile counts as a failed start, and is replaced.
        actor = self._idle.pop() if self._idle else self._create_actor()
        starting = actor.__ray_call__.remote(_node_address)
        self._states[starting] = ActorState(actor=actor, since=time.monotonic())

    def _create_actor(self) -> Any:
        self._head.check()
        self._made += 1
        name = f"{self._worker_name}-{self._made}-{secrets.token_hex(3)}"
        actor = self._remote.options(name=name).remote(**self._arguments)
        self._actors.append(actor)
        return actor

    def _kill(self, actor: Any) -> None:
        self._head.check()
        ray.kill(actor)

    def _shutdown(self) -> None:
        # A driver that is closed by an error may be the first to see that the head is gone.
        if self._head.is_lost or why_silent(self._head.address, timeout_s=5.0):
            leave_lost_head()
            self._idle.clear()
        else:
            for actor in [*self._queued(), *self._actors]:
                if actor not in self._idle:
                    ray.kill(actor)
            self._meters.show(units_in_flight=0, queue_depth=0)
        self._actors = [*self._idle]
        self._states.clear()

    def close(self) -> None:
        """End the idle actors."""
        self._idle.clear()
        self._shutdown()

    def _queued(self) -> list[Any]:
        """Return the actors that wait for resources, once all others have started."""
        starting = {key: one.actor for key, one in self._states.items() if one.item is None}
        if not starting:
            return []
        slots = sum(self.ask.slots(node) for node in cluster_around().nodes)
        return await_starts(starting, slots - (len(self._states) - len(starting)))

    def _handle_result(self, queue: WorkQueue, reference: Any) -> WorkResult | None:
        state = self._states.pop(reference)
        try:
            result: Any = ray.get(reference)
        except RayTaskError as error:
            return self._handle_error(queue, state, error)
        except RayError as error:
            return self._handle_death(queue, state, error)
        self._failed_starts.end()
        self._stuck.in_a_row = 0
        if state.item is None:
            self._assign(queue, state.actor, node=result)
            return None
        queue.finish()
        self._assign(queue, state.actor, state.node)
        self._meters.count("units", 1)
        return state.outcome(state.item.attempts + 1, result=result)

    def _assign(self, queue: WorkQueue, actor: Any, node: str) -> None:
        nodes = {node} | {state.node for state in self._states.values() if state.item is not None}
        item = queue.take(node, nodes)
        if item is None and self._keeps_idle:
            self._idle.append(actor)
            return
        if item is None:
            # An idle worker would occupy a GPU that the replacement of a dead worker may need.
            self._kill(actor)
            return
        reference = actor.do.remote(item.unit)
        self._states[reference] = ActorState(
            actor=actor, node=node, item=item, since=time.monotonic()
        )

    def _handle_error(
        self, queue: WorkQueue, state: ActorState, error: RayTaskError
    ) -> WorkResult | None:
        # A StorageError may come from a full disk or a broken mount of one node: try elsewhere.
        if isinstance(error.cause, InputError) and not isinstance(error.cause, StorageError):
            raise InputError(str(error.cause)) from error
        if state.item is None:
            raise error
        # After some errors, such as a lost CUDA context, the process cannot work any more.
        item = state.item.failed(state.node)
        return self._replace(queue, state, item, error, COLOURS.sub("", str(error)))

    def _handle_death(
        self, queue: WorkQueue, state: ActorState, error: RayError
    ) -> WorkResult | None:
        if state.item is None:
            is_bug = isinstance(error, RayActorError) and error.actor_init_failed
            self._failed_starts.count(error, is_bug=bool(is_bug))
            if queue.waiting:
                self._start_worker()
            return None
        item, why = state.item.died(), str(error)
        if self._is_hung(state):
            minutes = self.config.unit_timeout_minutes
            why = (
                f"The unit took longer than {minutes:g} minutes. The worker hangs, or the unit "
                "needs a larger --unit-timeout-minutes."
            )
        message = f"{item.deaths} workers died while working on {item.unit}. The last one: {why}"
        return self._replace(queue, state, item, RuntimeError(message), why)

    def _replace(
        self, queue: WorkQueue, state: ActorState, item: WorkItem, error: Exception, text: str
    ) -> WorkResult | None:
        # A worker that cannot be reached may still write, so kill it even if it seems dead.
        self._kill(state.actor)
        is_tried_again = queue.give_back(item)
        if queue.waiting:
            self._start_worker()
        if not is_tried_again:
            self._meters.count("given_up", 1)
            return state.outcome(item.attempts, failure=Failure(error=error, text=text))
        self._meters.count("retries", 1)
        line = text.strip().splitlines()[-1][:160]
        print(f"{item.unit} is tried again after attempt {item.attempts}: {line}", flush=True)
        return None


def _node_address(worker: Any) -> str:
    return f"{ray.util.get_node_ip_address()}/{ray.get_runtime_context().get_node_id()[:8]}"


def _cause_of(error: Exception) -> Exception:
    """Return the error to raise for a failed unit."""
    # Ray's error is a StorageError too, but its text is the worker's whole traceback.
    cause = error.cause if isinstance(error, RayTaskError) else None
    return cause if isinstance(cause, StorageError) else error
