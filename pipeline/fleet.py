"""A fleet of Ray actors works through units: bounded in flight, dead workers replaced.

The only room that imports Ray. An actor loads its model once; a unit goes to whichever actor is
ready, and workers are added as nodes join. Ray retries nothing by itself: a unit whose
worker died is handed out again, at most ``max_attempts`` times.
"""

from __future__ import annotations

import argparse
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError, WorkerCrashedError

from pipeline.door import Refusal, checked, inside_ray_job

DEAD = (RayActorError, WorkerCrashedError)
HINT_AFTER_S = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class FleetConfig:
    """How many workers, and what each asks of the cluster."""

    workers: int = 0
    """Actors; 0 for one a GPU share, or one a CPU where there is no GPU."""
    gpus_per_worker: float = 0.0
    """GPU share of an actor; 0 for a whole GPU where the cluster has any."""
    accelerator_type: str | None = None
    """Ray's accelerator type that an actor must run on, such as A100."""
    max_attempts: int = 5
    """Times that a unit is handed out before its deaths are taken for its own fault."""

    def __post_init__(self) -> None:
        if self.gpus_per_worker > 1 and self.gpus_per_worker != int(self.gpus_per_worker):
            raise ValueError(
                "gpus_per_worker must be a share of one GPU or a whole number. Got "
                f"{self.gpus_per_worker}. Pass 0.5 or 1."
            )
        if self.workers < 0 or self.gpus_per_worker < 0:
            raise ValueError(
                f"workers and gpus_per_worker must not be negative. Got {self.workers=}, "
                f"{self.gpus_per_worker=}. Leave them out for the defaults."
            )


def config_of(arguments: argparse.Namespace) -> FleetConfig:
    """What a job's fleet flags ask for."""
    return checked(
        FleetConfig,
        workers=arguments.workers,
        gpus_per_worker=arguments.gpus_per_worker,
        accelerator_type=arguments.accelerator_type,
    )


def join_ray() -> None:
    """Join the cluster of a submitted job or of ``RAY_ADDRESS``; else start one in-process."""
    if ray.is_initialized():
        return
    address = os.environ.get("RAY_ADDRESS", "")
    if inside_ray_job() or (address and not address.startswith("http")):
        ray.init(log_to_driver=True)
        return
    if address:
        # That is where jobs are submitted to; a driver outside the cluster cannot join it.
        print(f"RAY_ADDRESS={address} takes jobs (ray job submit); running locally", flush=True)
    ray.init(address="local", include_dashboard=False, logging_level=logging.ERROR)


def leave_ray() -> None:
    """Disconnect; stops a cluster that :func:`join_ray` started, and no other."""
    ray.shutdown()


def ask_worker(
    question: Callable[..., Any], *arguments: Any, options: dict[str, Any], timeout_s: float
) -> Any:
    """What a function answers on a node that has what Ray's ``options`` ask for.

    Raises:
        TimeoutError: if no node took it in time; whatever it raised there is raised here.
    """
    answer = ray.remote(**options, max_retries=0)(question).remote(*arguments)
    if not ray.wait([answer], timeout=timeout_s)[0]:
        ray.cancel(answer, force=True)
        raise TimeoutError(
            f"no node took {options} within {timeout_s:g} s; the cluster has "
            f"{ray.cluster_resources()}"
        )
    return ray.get(answer)


def living_nodes() -> list[dict[str, Any]]:
    """Nodes of the joined cluster, each with ``Resources`` and ``Labels``."""
    return [node for node in ray.nodes() if node["Alive"]]


@dataclass(slots=True)
class _Desk:
    """Who does what right now."""

    waiting: deque[tuple[Any, int]]
    """Units to do, with the attempts made so far."""
    in_flight: dict[Any, tuple[Any, Any, int]] = field(default_factory=dict)
    """Reference to (actor, unit or None while the actor starts, attempt)."""


class Fleet:
    """Actors of one class, each built with the same arguments, each with a method ``do``."""

    def __init__(self, worker: type, arguments: dict[str, Any], config: FleetConfig) -> None:
        join_ray()
        self.config = config
        self.resources = _resources(config)
        self.num_workers = config.workers or _default_workers(self.resources)
        self._remote = ray.remote(**self.resources, max_restarts=0)(worker)
        self._worker_name = worker.__name__
        self._arguments = arguments
        self._actors: list[Any] = []
        self._made = 0
        self._failed_starts = 0

    def work(self, units: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
        """Yield ``(unit, result)`` as units finish, in any order.

        Raises:
            RuntimeError: if a unit's worker died ``max_attempts`` times.
        """
        desk = _Desk(waiting=deque((unit, 0) for unit in units))
        for _ in range(min(self.num_workers, len(units))):
            self._hire(desk)
        try:
            yield from self._finish(desk, len(units))
        finally:
            self._dismiss()

    def _finish(self, desk: _Desk, left: int) -> Iterator[tuple[Any, Any]]:
        hint_at = time.monotonic() + HINT_AFTER_S
        while left:
            ready, _ = ray.wait(list(desk.in_flight), num_returns=1, timeout=10.0)
            for reference in ready:
                hint_at = time.monotonic() + HINT_AFTER_S
                finished = self._settle(desk, reference)
                if finished is not None:
                    left -= 1
                    yield finished
            self._grow(desk)
            is_anyone_working = any(unit is not None for _, unit, _ in desk.in_flight.values())
            if time.monotonic() > hint_at and not is_anyone_working:
                hint_at = time.monotonic() + HINT_AFTER_S
                print(self._waiting_hint(), flush=True)

    def _grow(self, desk: _Desk) -> None:
        # Nodes that an autoscaler adds are used, unless the number of workers was given.
        if self.config.workers == 0 and desk.waiting:
            wanted = min(_default_workers(self.resources), len(desk.waiting) + len(desk.in_flight))
            for _ in range(wanted - len(desk.in_flight)):
                self._hire(desk)

    def _dismiss(self) -> None:
        for actor in self._actors:
            ray.kill(actor)
        self._actors.clear()

    def _hire(self, desk: _Desk) -> None:
        self._made += 1
        name = f"{self._worker_name}-{self._made}-{os.getpid()}"
        actor = self._remote.options(name=name).remote(**self._arguments)
        self._actors.append(actor)
        desk.in_flight[actor.__ray_ready__.remote()] = (actor, None, 0)

    def _settle(self, desk: _Desk, reference: Any) -> tuple[Any, Any] | None:
        actor, unit, attempt = desk.in_flight.pop(reference)
        try:
            result = ray.get(reference)
        except RayTaskError as error:
            raise _as_refusal(error) from error
        except DEAD as error:
            if unit is None:
                self._count_failed_start(error)
            self._replace(desk, unit, attempt, error)
            return None
        self._failed_starts = 0
        if desk.waiting:
            following, attempts = desk.waiting.popleft()
            desk.in_flight[actor.do.remote(following)] = (actor, following, attempts + 1)
        else:
            # An idle worker would keep its GPU from the one that takes over a dead one's unit.
            ray.kill(actor)
        return None if unit is None else (unit, result)

    def _count_failed_start(self, error: Exception) -> None:
        self._failed_starts += 1
        last_line = str(error).strip().splitlines()[-1]
        kind, _, message = last_line.partition(": ")
        if kind.endswith("Refusal"):
            raise Refusal(message) from error
        is_hopeless = isinstance(error, RayActorError) and error.actor_init_failed
        if is_hopeless or self._failed_starts >= self.config.max_attempts:
            raise RuntimeError(
                f"No worker could start: {self._failed_starts} in a row failed. The last: "
                f"{last_line}"
            ) from error

    def _replace(self, desk: _Desk, unit: Any, attempt: int, error: Exception) -> None:
        if unit is not None:
            if attempt >= self.config.max_attempts:
                raise RuntimeError(
                    f"A worker died {attempt} times over {unit}. The last: {error}"
                ) from error
            print(f"A worker died over {unit}; it is done again.", flush=True)
            desk.waiting.appendleft((unit, attempt))
        if desk.waiting:
            self._hire(desk)

    def _waiting_hint(self) -> str:
        return (
            f"Still waiting for a worker that needs {self.resources}; the cluster has "
            f"{ray.cluster_resources()}. Add such nodes, or ask for less."
        )


def _resources(config: FleetConfig) -> dict[str, Any]:
    gpus = config.gpus_per_worker or float(bool(ray.cluster_resources().get("GPU", 0)))
    if config.accelerator_type is not None:
        return {"num_cpus": 1, "num_gpus": gpus or 1.0, "accelerator_type": config.accelerator_type}
    return {"num_cpus": 1, "num_gpus": gpus}


def _default_workers(resources: dict[str, Any]) -> int:
    available = ray.cluster_resources()
    if resources["num_gpus"]:
        return max(1, int(available.get("GPU", 0) / resources["num_gpus"]))
    return max(1, int(available.get("CPU", 1)))


def _as_refusal(error: RayTaskError) -> Exception:
    cause = error.cause
    return Refusal(str(cause)) if isinstance(cause, Refusal) else error
