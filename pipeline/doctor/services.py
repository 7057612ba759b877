"""Storage and MLflow, asked by the driver while Ray starts, and then by a worker.

A stage's driver needs both itself. Asked from the begin on, a service that never answers costs the
doctor no more than the start of Ray takes anyway.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

from pipeline.doctor.checks import WORKER, Finding, check_storage, check_tracking
from pipeline.doctor.config import DoctorConfig
from pipeline.doctor.host_info import be_impatient, find_mark, leave_mark, remove_mark
from pipeline.tracking import call_store
from pipeline.tracking.connection import PROBE_S, bounded_requests

HERE = "this machine"
"""Subject of the findings of the driver."""
Ask = Callable[..., Any]
"""Calls a function with arguments on some machine."""


def ask_here(question: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function on this machine."""
    return question(*arguments)


def try_storage(uri: str, ask: Ask, who: str) -> Finding:
    """Let a machine write a file, and the driver read it."""
    name = uuid.uuid4().hex
    wrote = ask(leave_mark, uri, name)
    is_seen = wrote is None and find_mark(uri, name)
    if wrote is None:
        wrote = ask(remove_mark, uri, name)
    return check_storage(uri, wrote=wrote, is_seen=is_seen, who=who)


def try_tracking(uri: str, ask: Ask, who: str) -> Finding:
    """Let a machine call MLflow."""
    return check_tracking(uri, ask(call_store, uri), who)


class Services:
    """The services that the flags name. Within its block the driver asks each of them in a thread.

    Args:
        config: flags of the doctor.
    """

    def __init__(self, config: DoctorConfig) -> None:
        self._wanted = [
            (attempt, uri)
            for attempt, uri in ((try_storage, config.out), (try_tracking, config.tracking_uri))
            if uri is not None
        ]
        self._answers: list[Future[Finding]] = []
        self._stack = ExitStack()

    def __enter__(self) -> Services:
        # The threads would otherwise change variables that Ray copies while it starts.
        be_impatient()
        self._stack.enter_context(bounded_requests(PROBE_S))
        pool = self._stack.enter_context(ThreadPoolExecutor(max_workers=2))
        self._answers = [pool.submit(attempt, uri, ask_here, HERE) for attempt, uri in self._wanted]
        return self

    def __exit__(self, *raised: object) -> None:
        self._stack.close()

    def seen_from_here(self) -> Iterator[Finding]:
        """Yield the findings of the driver: a dead Ray must not hide a dead MLflow."""
        for answer in self._answers:
            yield answer.result()

    def seen_from(self, ask: Ask) -> Iterator[Finding]:
        """Yield a worker's finding for each service, or the driver's if the driver failed.

        Args:
            ask: calls a function on a worker.
        """
        for answer, (attempt, uri) in zip(self._answers, self._wanted, strict=True):
            yield attempt(uri, ask, WORKER) if answer.result().is_ok else answer.result()
