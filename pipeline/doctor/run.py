"""Collect facts on the driver and on a worker, and check them with ``pipeline.doctor.checks``.

Facts about workers come from Ray tasks with the resources of a worker of a collection, so that a
cluster which scales from zero starts a node.
"""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from pipeline.cluster.capacity import resource_request
from pipeline.cluster.head import ANSWER_S, is_on_a_cluster
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
    read_pins,
)
from pipeline.doctor.config import DoctorConfig
from pipeline.doctor.host_info import HostInfo, read_host_info
from pipeline.doctor.services import Services
from pipeline.errors import InputError, without_secrets
from pipeline.models.model_info import find_model

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
    with Services(config) as services:
        yield check_libraries("driver", read_host_info(pins.needed), pins)
        try:
            join_ray()
        except InputError as error:
            # A dead head, a wrong token, another version.
            yield Finding(name="ray", is_ok=False, said=str(error))
            yield from services.seen_from_here()
            return
        yield from _examine_cluster(config, pins, here, services)


def _examine_cluster(
    config: DoctorConfig, pins: Pins, here: str | None, services: Services
) -> Iterator[Finding]:
    try:
        yield Finding(name="ray", is_ok=True, said=f"{len(living_nodes())} nodes answer")
        yield from _check_worker(config, pins, here, services)
    except Exception as error:
        # A worker that dies, hangs or cannot import this project is a finding too.
        said = f"{_last_line(error)}. Look at ray status and ray list nodes, and check the image."
        yield Finding(name="worker", is_ok=False, said=said)
    finally:
        leave_ray()


def _check_worker(
    config: DoctorConfig, pins: Pins, here: str | None, services: Services
) -> Iterator[Finding]:
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
    yield from services.seen_from(ask)
    if config.model is not None and here is not None:
        yield check_model(config.model, here, ask(_hash_there, config.model))


def check_job_server(address: str) -> Finding:
    """Check that a Ray job server answers, which ``ray job submit`` would try for minutes.

    Args:
        address: ``http://HOST:PORT`` of the server.
    """
    request = urllib.request.Request(f"{address.rstrip('/')}/api/version")
    try:
        urllib.request.urlopen(request, timeout=ANSWER_S).close()
    except urllib.error.HTTPError:
        # It answers, perhaps that a token is missing: `ray job submit` has that.
        pass
    except (OSError, ValueError, http.client.HTTPException) as error:
        said = (
            f"the job server at {without_secrets(address)} did not answer: {_last_line(error)}. "
            "Start it with ray start --head or ray dashboard, or correct RAY_ADDRESS."
        )
        return Finding(name="ray", is_ok=False, said=said)
    return Finding(name="ray", is_ok=True, said=f"the job server at {without_secrets(address)}")


def _check_host(worker: HostInfo, pins: Pins) -> Iterator[Finding]:
    yield check_libraries("worker", worker, pins)
    yield check_python(read_host_info(()), worker)
    yield check_auth(worker.auth_mode, is_private=not is_on_a_cluster())
    yield from check_room(worker)


def _hash_there(model: str) -> str:
    try:
        return find_model(model).model_hash
    except InputError as refusal:
        return str(refusal)


def _last_line(error: Exception) -> str:
    # The message of Ray's error is the whole traceback of the worker.
    return (str(error).strip() or type(error).__name__).splitlines()[-1]
