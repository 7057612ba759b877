"""Identity of a process that another process on the same machine can check."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

from pipeline.storage.json_schema import Count


@dataclass(frozen=True, kw_only=True, slots=True)
class Process:
    """Process, distinguished from earlier processes with the same pid by boot id and start time."""

    host: str
    """Name of the process's machine, for messages."""
    machine: str
    """Boot id and pid namespace of the machine; empty if they cannot be read."""
    pid: Count
    """Process id in that namespace."""
    started: Count
    """Clock ticks from the boot to the start of the process; 0 if that cannot be read."""

    @property
    def is_here(self) -> bool:
        """True if the process has the boot id and pid namespace of the calling process."""
        return self.machine != "" and self.machine == _machine()

    @property
    def is_gone(self) -> bool:
        """True if the process has certainly ended; never certain for another machine."""
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
    """Return the identity of the calling process."""
    pid = os.getpid()
    return Process(host=platform.node(), machine=_machine(), pid=pid, started=_state_of(pid)[1])


def _machine() -> str:
    # Containers on one machine share the boot id, but each has its own pid namespace.
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _state_of(pid: int) -> tuple[str, int]:
    """Return the state letter and start time of a process, after proc(5); ``("", 0)`` if they
    cannot be read."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "", 0
    return fields[0], int(fields[19])
