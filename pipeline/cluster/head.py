"""Health check of a Ray head over gRPC, before and during the work. This module imports no ray.

At an address where nothing answers, ``ray.init`` tries for minutes. A driver whose head dies is
ended by Ray after 60 s from a thread of its own, without an exception that could be caught.
"""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING

from pipeline.errors import IncompleteError, InputError, without_secrets
from pipeline.storage.output_checks import inside_ray_job

if TYPE_CHECKING:
    import grpc

ANSWER_S = 10.0
"""Longest wait for one answer of a head, in seconds."""
SILENT_S = 20.0
"""Time without an answer after which the head of a running stage counts as lost, in seconds: well
below the 60 s after which Ray ends the process."""
CLIENT = "ray://"
"""Scheme of the addresses of a Ray Client server."""


class HeadLostError(IncompleteError):
    """Ray head that no longer answers. Every further call of Ray would block."""


def is_on_a_cluster() -> bool:
    """Return True if a stage joins a cluster; else it starts a local Ray."""
    address = os.environ.get("RAY_ADDRESS", "")
    return inside_ray_job() or bool(address and not address.startswith("http"))


def refuse_silent_head(address: str | None = None) -> None:
    """Refuse a Ray head that does not answer, before any work.

    Args:
        address: ``HOST:PORT`` of the head; None for the one of ``RAY_ADDRESS``, if a stage would
            join it.

    Raises:
        InputError: if the head has not answered within :data:`ANSWER_S`.
    """
    address = address or os.environ.get("RAY_ADDRESS", "")
    if not is_on_a_cluster() or address in ("", "auto", "local"):
        return
    if (reason := why_silent(address)) is not None:
        raise InputError(
            f"RAY_ADDRESS must be HOST:PORT of a running Ray head. Got {without_secrets(address)}: "
            f"{reason}. Start the head with ray start, correct RAY_ADDRESS, or unset it to run on "
            "this machine alone."
        )


def why_silent(address: str, timeout_s: float | None = None) -> str | None:
    """Return the reason why a head does not answer; None if it answers.

    Args:
        address: ``HOST:PORT`` of a head, or ``ray://HOST:PORT`` of a Ray Client server.
        timeout_s: longest wait, in seconds; None for :data:`ANSWER_S`.
    """
    target, timeout_s = address.removeprefix(CLIENT), timeout_s or ANSWER_S
    if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
        return _why_closed(target, timeout_s)
    import grpc

    with grpc.insecure_channel(target, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            # The health service of gRPC, which every server of Ray's own processes offers.
            channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=timeout_s)
        except grpc.RpcError as error:
            return _reason(error, is_client_server=target != address)
    return None


def _reason(error: grpc.RpcError, *, is_client_server: bool) -> str | None:
    import grpc

    assert isinstance(error, grpc.Call)
    said = " ".join((error.details() or "").split())
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return "no answer in time"
    # A Ray Client server has no health service; an HTTP server gives the same code with a header.
    if is_client_server and error.code() is grpc.StatusCode.UNIMPLEMENTED and "http2" not in said:
        return None
    if "HTTP/2" in said or "http2" in said:
        return "it answers, but not as a Ray head; port 8265 is that of jobs, 6379 that of the head"
    return said.rpartition("UNKNOWN: ")[2][:160] or error.code().name


def _why_closed(target: str, timeout_s: float) -> str | None:
    host, _, port = target.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=timeout_s).close()
    except (OSError, ValueError) as error:
        return str(error)
    return None


class HeadWatch:
    """Check that the head of a running stage still answers, made before each call that needs it.

    Args:
        address: ``HOST:PORT`` of the head.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.is_lost = False

    def check(self) -> None:
        """Return once the head answers.

        Raises:
            HeadLostError: if it has not answered for :data:`SILENT_S`.
        """
        started = time.monotonic()
        while (reason := why_silent(self.address, timeout_s=SILENT_S / 4)) is not None:
            self.is_lost = time.monotonic() - started > SILENT_S
            if self.is_lost:
                raise HeadLostError(
                    f"The Ray head at {self.address} must answer during the work. It has been "
                    f"silent for {SILENT_S:.0f} s: {reason}. What is finished is kept: run the "
                    "same command again on a running cluster."
                )
            time.sleep(0.5)
