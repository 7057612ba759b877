"""Which process this is, in words that another one on the same machine can check."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Process:
    """A process, told apart from any other of the same number."""

    host: str
    """Name of its machine, for people."""
    machine: str
    """The machine's boot and the numbering that its processes share; empty where none can tell."""
    pid: int
    """Its number there."""
    started: int
    """Clock ticks from the boot to its start; 0 where that cannot be read."""

    @property
    def is_here(self) -> bool:
        """Whether its number means anything to this process."""
        return self.machine != "" and self.machine == _machine()

    @property
    def is_gone(self) -> bool:
        """Whether it has ended for certain. Of another machine nothing is certain."""
        if not self.is_here:
            return False
        try:
            os.kill(self.pid, 0)
        except (ProcessLookupError, OverflowError):
            return True
        except PermissionError:
            return False
        state, started = _state_of(self.pid)
        return state in ("Z", "X") or (self.started and started) not in (0, self.started)


def this_process() -> Process:
    """The process that asks."""
    pid = os.getpid()
    return Process(host=platform.node(), machine=_machine(), pid=pid, started=_state_of(pid)[1])


def _machine() -> str:
    # Containers share a boot, but not the numbers of their processes.
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _state_of(pid: int) -> tuple[str, int]:
    """State letter and start of a process, after proc(5); nothing where it cannot be read."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "", 0
    return fields[0], int(fields[19])
