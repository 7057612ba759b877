"""Ray cluster that a stage runs on: joining or starting it, its nodes, its exported metrics."""

from __future__ import annotations

import atexit
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
from ray._private import services, state
from ray.util.metrics import Counter, Gauge

from pipeline.cluster.capacity import Cluster, Node, ResourceRequest, Scaling, read_scaling
from pipeline.cluster.head import CLIENT, HeadWatch, is_on_a_cluster, refuse_silent_head
from pipeline.errors import InputError, without_secrets


def join_ray() -> None:
    """Join the cluster of a submitted job or of ``RAY_ADDRESS``; else start one in-process.

    Raises:
        InputError: if the head does not answer, or Ray refuses.
    """
    if ray.is_initialized():
        return
    address = os.environ.get("RAY_ADDRESS", "")
    if address.startswith("http") and not is_on_a_cluster():
        # An http address is a job server.
        print(
            f"RAY_ADDRESS={without_secrets(address)} is for ray job submit only: a driver outside "
            "the cluster cannot join it. Running on a local Ray instead",
            flush=True,
        )
    try:
        if is_on_a_cluster():
            _join_cluster(address)
        else:
            ray.init(address="local", include_dashboard=False, logging_level=logging.ERROR)
    except InputError:
        raise
    except Exception as error:
        # Ray raises errors of many kinds here, such as for a wrong token or another version.
        last_line = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise InputError(
            f"Ray must start, or be joined at RAY_ADDRESS. Got RAY_ADDRESS={address or None} and "
            f"the error: {without_secrets(last_line)} Check RAY_ADDRESS and RAY_AUTH_TOKEN, and "
            "that the cluster has this version of Ray."
        ) from error


def _join_cluster(address: str) -> None:
    if address in ("", "auto"):
        # The address that `ray start` left on this machine may be that of a dead head.
        refuse_silent_head(services.canonicalize_bootstrap_address("auto"))
    else:
        refuse_silent_head(address)
    ray.init(log_to_driver=True)


def leave_ray() -> None:
    """Disconnect from Ray, and stop a local Ray that :func:`join_ray` started."""
    ray.shutdown()


def leave_lost_head() -> None:
    """Let this process end at once, with exit code 1, when its work has ended for want of a head.

    Ray's own handler at the exit asks the head, and the destructors of its threads wait for up to
    half a minute and then crash.
    """
    atexit.unregister(ray.shutdown)
    atexit.register(_end_unfinished)


def _end_unfinished() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


def watch_head() -> HeadWatch:
    """Return the watch of the joined cluster's head."""
    address = os.environ.get("RAY_ADDRESS", "")
    is_by_client = address.startswith(CLIENT)
    return HeadWatch(address if is_by_client else ray.get_runtime_context().gcs_address)


def living_nodes() -> list[dict[str, Any]]:
    """Return the living nodes of the joined cluster, each with ``Resources`` and ``Labels``."""
    return [node for node in ray.nodes() if node["Alive"]]


def cluster_around() -> Cluster:
    """Describe the joined cluster: its nodes, and the nodes that its autoscaler may add."""
    nodes = tuple(
        Node(resources=node["Resources"], labels=node.get("Labels", {})) for node in living_nodes()
    )
    return Cluster(nodes=nodes, scaling=read_scaling() if is_on_a_cluster() else Scaling())


@dataclass(frozen=True, kw_only=True, slots=True)
class ActorStart:
    """Progress of an actor that has not answered yet, as Ray reports it."""

    state: str
    """Ray's name of the actor's state, such as PENDING_CREATION."""
    has_process: bool
    """True if Ray gave the actor a worker process, which may still be loading its model."""

    @property
    def may_get_process(self) -> bool:
        """True until the actor has a process or has ended without one."""
        return not self.has_process and self.state != "DEAD"

    def __str__(self) -> str:
        return f"{self.state} {'with' if self.has_process else 'without'} a process"


def start_of(actor: Any) -> ActorStart:
    """Ask the head how far an actor has come."""
    # The public State API needs the dashboard, which a local Ray does not have.
    found = state.actors(actor._actor_id.hex())
    return ActorStart(state=found.get("State", "unknown"), has_process=bool(found.get("Pid")))


def wait_for_answers(references: list[Any], timeout_s: float) -> list[Any]:
    """Return the references that have no answer within ``timeout_s`` seconds."""
    if not references:
        return []
    return ray.wait(references, num_returns=len(references), timeout=timeout_s)[1]


def has_room(ask: ResourceRequest) -> bool:
    """Return True if the free resources of all nodes together could hold one more worker."""
    free = ray.available_resources()
    return free.get("CPU", 0.0) >= 1 and free.get("GPU", 0.0) >= ask.gpus


def ask_worker(
    question: Callable[..., Any], *arguments: Any, options: dict[str, Any], timeout_s: float
) -> Any:
    """Call a function on a node with the resources in Ray's ``options``, and return its result.

    An error that the function raises there is raised here.

    Raises:
        TimeoutError: if the call has not finished within ``timeout_s`` seconds.
    """
    answer = ray.remote(**options, max_retries=0)(question).remote(*arguments)
    if not ray.wait([answer], timeout=timeout_s)[0]:
        ray.cancel(answer, force=True)
        raise TimeoutError(
            f"no node with {options} answered within {timeout_s:g} s; the cluster's resources "
            f"are {ray.cluster_resources()}"
        )
    return ray.get(answer)


class Meters:
    """Metrics of an actor pool that Ray exports as ``ray_dqar_...``, tagged with the class of the
    workers."""

    def __init__(self, worker: str) -> None:
        self._tags = {"worker": worker}
        self._counters: dict[str, Counter] = {}
        self._gauges: dict[str, Gauge] = {}

    def count(self, what: str, amount: int | float) -> None:
        """Add an amount to a counter."""
        if what not in self._counters:
            self._counters[what] = Counter(f"dqar_{what}", tag_keys=("worker",))
        if amount:
            self._counters[what].inc(amount, self._tags)

    def show(self, **values: int | float) -> None:
        """Set gauges to values."""
        for what, value in values.items():
            if what not in self._gauges:
                self._gauges[what] = Gauge(f"dqar_{what}", tag_keys=("worker",))
            self._gauges[what].set(value, self._tags)
