"""The doctor's visit: gather facts on the driver and on a worker, give verdicts.

Facts are asked for here, judged in ``pipeline.doctor.checks``. Each question that needs a worker
goes where a worker of a collection would run, so that a cluster which scales from nothing starts a
node.
"""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.cluster.capacity import resource_request
from pipeline.cluster.ray_cluster import (
    ask_worker,
    cluster_around,
    is_on_a_cluster,
    join_ray,
    leave_ray,
    living_nodes,
)
from pipeline.doctor.checks import (
    Finding,
    Pins,
    check_accelerator,
    check_auth,
    check_libraries,
    check_model,
    check_python,
    check_room,
    check_storage,
    check_tracking,
    read_pins,
)
from pipeline.doctor.host_info import HostInfo, find_mark, leave_mark, read_host_info, remove_mark
from pipeline.errors import InputError
from pipeline.models.model_info import find_model
from pipeline.tracking import call_store

CHECKOUT = Path(__file__).parents[2]


@dataclass(frozen=True, kw_only=True, slots=True)
class DoctorConfig:
    """What the doctor is asked to look at; what is left out is not looked at."""

    model: str | None = None
    """Model whose weights workers must find."""
    out: str | None = None
    """Storage that workers must be able to write to."""
    tracking_uri: str | None = None
    """MLflow that workers must reach."""
    accelerator_type: str | None = None
    """Ray's accelerator type that a worker must get."""
    timeout_s: float = 300.0
    """Longest wait for one answer of a worker; an autoscaler needs minutes for a first node."""

    def __post_init__(self) -> None:
        if not self.timeout_s > 0:
            raise ValueError(f"timeout_s must be positive. Got {self.timeout_s}. Pass 300.")


def pins_of(checkout: Path = CHECKOUT) -> Pins:
    """What this checkout needs and pins.

    Raises:
        InputError: outside a checkout, where the files are not.
    """
    try:
        texts = [(checkout / name).read_text() for name in ("pyproject.toml", "constraints.txt")]
    except OSError as error:
        raise InputError(
            f"The doctor reads pyproject.toml and constraints.txt of the checkout. Got: {error}. "
            "Run jobs/doctor.py from a clone, or submit it with --working-dir."
        ) from error
    return read_pins(*texts)


def examine(config: DoctorConfig) -> Iterator[Finding]:
    """Look at everything, yielding each finding as it is made.

    Raises:
        InputError: if the driver itself cannot find the model.
    """
    pins = pins_of()
    here = None if config.model is None else find_model(config.model).model_hash
    yield check_libraries("driver", read_host_info(pins.needed), pins)
    try:
        _knock()
        join_ray()
    except Exception as error:
        # Whatever keeps Ray away is a finding: a dead head, a wrong token, another version.
        said = f"{_last_line(error)}. Start the head; check the token."
        yield Finding(name="ray", is_ok=False, said=said)
        return
    try:
        yield Finding(name="ray", is_ok=True, said=f"{len(living_nodes())} nodes answer")
        yield from _visit(config, pins, here)
    except Exception as error:
        # So is a worker that dies, hangs, or cannot import this project.
        said = f"{_last_line(error)}. See ray status, ray list nodes, and the image."
        yield Finding(name="worker", is_ok=False, said=said)
    finally:
        leave_ray()


def _visit(config: DoctorConfig, pins: Pins, here: str | None) -> Iterator[Finding]:
    options = resource_request(0.0, config.accelerator_type, cluster_around()).options()
    ask = partial(ask_worker, options=options, timeout_s=config.timeout_s)
    try:
        worker: HostInfo = ask(read_host_info, pins.needed)
    except TimeoutError:
        if config.accelerator_type is None:
            raise
        yield check_accelerator(config.accelerator_type, living_nodes(), None)
        return
    yield from _look_at(worker, pins)
    yield check_accelerator(config.accelerator_type, living_nodes(), worker)
    yield from _look_around(config, ask)
    if config.model is not None and here is not None:
        yield check_model(config.model, here, ask(_hash_there, config.model))


def _look_at(worker: HostInfo, pins: Pins) -> Iterator[Finding]:
    yield check_libraries("worker", worker, pins)
    yield check_python(read_host_info(()), worker)
    yield check_auth(worker.auth_mode, is_private=not is_on_a_cluster())
    yield from check_room(worker)


def _look_around(config: DoctorConfig, ask: Callable[..., Any]) -> Iterator[Finding]:
    if config.out is not None:
        yield _try_storage(config.out, ask)
    if config.tracking_uri is not None:
        yield check_tracking(config.tracking_uri, ask(call_store, config.tracking_uri))


def _try_storage(uri: str, ask: Callable[..., Any]) -> Finding:
    name = uuid.uuid4().hex
    wrote = ask(leave_mark, uri, name)
    is_seen = wrote is None and find_mark(uri, name)
    if wrote is None:
        wrote = ask(remove_mark, uri, name)
    return check_storage(uri, wrote=wrote, is_seen=is_seen)


def _hash_there(model: str) -> str:
    try:
        return find_model(model).model_hash
    except InputError as refusal:
        return str(refusal)


def _last_line(error: Exception) -> str:
    # Ray hands on a worker's whole traceback.
    return (str(error).strip() or type(error).__name__).splitlines()[-1]


def _knock() -> None:
    # At an address where nobody listens, Ray tries for more than four minutes.
    host, _, port = os.environ.get("RAY_ADDRESS", "").rpartition("://")[2].rpartition(":")
    if is_on_a_cluster() and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=10).close()
