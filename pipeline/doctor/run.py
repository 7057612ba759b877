"""Collect facts on the driver and on a worker, and check them with ``pipeline.doctor.checks``.

Facts about workers come from Ray tasks with the resources of a worker of a collection, so that a
cluster which scales from zero starts a node.
"""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.cluster.capacity import resource_request
from pipeline.cluster.head import is_on_a_cluster
from pipeline.cluster.ray_cluster import (
    ask_worker,
    cluster_around,
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
from pipeline.doctor.config import DoctorConfig
from pipeline.doctor.host_info import HostInfo, find_mark, leave_mark, read_host_info, remove_mark
from pipeline.errors import InputError
from pipeline.models.model_info import find_model
from pipeline.tracking import call_store

CHECKOUT = Path(__file__).parents[2]


def pins_of(checkout: Path = CHECKOUT) -> Pins:
    """Read the libraries that this checkout requires and the versions that it pins.

    Raises:
        InputError: if ``checkout`` has no pyproject.toml or no constraints.txt.
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
    """Run all checks that the configuration asks for; yield each finding at once.

    Raises:
        InputError: if the driver cannot find the model.
    """
    pins = pins_of()
    here = None if config.model is None else find_model(config.model).model_hash
    yield check_libraries("driver", read_host_info(pins.needed), pins)
    try:
        _refuse_silent_address()
        join_ray()
    except Exception as error:
        # Every error of joining Ray is a finding: a dead head, a wrong token, another version.
        said = f"{_last_line(error)}. Start the head with ray start; check RAY_AUTH_TOKEN."
        yield Finding(name="ray", is_ok=False, said=said)
        return
    try:
        yield Finding(name="ray", is_ok=True, said=f"{len(living_nodes())} nodes answer")
        yield from _check_worker(config, pins, here)
    except Exception as error:
        # A worker that dies, hangs or cannot import this project is a finding too.
        said = f"{_last_line(error)}. Look at ray status and ray list nodes, and check the image."
        yield Finding(name="worker", is_ok=False, said=said)
    finally:
        leave_ray()


def _check_worker(config: DoctorConfig, pins: Pins, here: str | None) -> Iterator[Finding]:
    options = resource_request(0.0, config.accelerator_type, cluster_around()).options()
    ask = partial(ask_worker, options=options, timeout_s=config.timeout_s)
    try:
        worker: HostInfo = ask(read_host_info, pins.needed)
    except TimeoutError:
        if config.accelerator_type is None:
            raise
        yield check_accelerator(config.accelerator_type, living_nodes(), None)
        return
    yield from _check_host(worker, pins)
    yield check_accelerator(config.accelerator_type, living_nodes(), worker)
    yield from _check_services(config, ask)
    if config.model is not None and here is not None:
        yield check_model(config.model, here, ask(_hash_there, config.model))


def _check_host(worker: HostInfo, pins: Pins) -> Iterator[Finding]:
    yield check_libraries("worker", worker, pins)
    yield check_python(read_host_info(()), worker)
    yield check_auth(worker.auth_mode, is_private=not is_on_a_cluster())
    yield from check_room(worker)


def _check_services(config: DoctorConfig, ask: Callable[..., Any]) -> Iterator[Finding]:
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
    # The message of Ray's error is the whole traceback of the worker.
    return (str(error).strip() or type(error).__name__).splitlines()[-1]


def _refuse_silent_address() -> None:
    # Ray tries for more than four minutes at an address where nothing listens.
    host, _, port = os.environ.get("RAY_ADDRESS", "").rpartition("://")[2].rpartition(":")
    if is_on_a_cluster() and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=10).close()
