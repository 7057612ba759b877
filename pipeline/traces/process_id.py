"""Identity of a process that another process on the same machine can check."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

from pipeline.storage.json_schema import Count


@dataclass(frozen=True, kw_only=True, slots=True)
class Process:
    """A process, distinguished from earlier ones with the same pid by its boot and start time."""

    host: str
    """Name of its machine, for messages."""
    machine: str
    """Boot id and pid namespace of its machine; empty where they cannot be read."""
    pid: Count
    """Its pid there."""
    started: Count
    """Clock ticks from the boot to its start; 0 where that cannot be read."""

    @property
    def is_here(self) -> bool:
        """True if it shares this process's boot and pid namespace."""
        return self.machine != "" and self.machine == _machine()

    @property
    def is_gone(self) -> bool:
        """True if it has certainly ended; of another machine that is never certain."""
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
    """Identity of the calling process."""
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
    """State letter and start time of a process, after proc(5); empty where it cannot be read."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "", 0
    return fields[0], int(fields[19])
