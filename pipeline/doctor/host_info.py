"""What one machine says of itself: asked on the driver and, through Ray, on a worker."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pipeline.errors import InputError
from pipeline.storage.object_store import open_storage

GIB = 2**30
CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, kw_only=True, slots=True)
class HostInfo:
    """Versions and room of one machine, as the process that asked sees them."""

    host: str
    """Its name on the network."""
    python: str
    """Version, such as 3.11.9."""
    libraries: dict[str, str | None]
    """Installed version of each library that was asked about; None where there is none."""
    auth_mode: str | None
    """``RAY_AUTH_MODE`` of the process: token, disabled, or None where nobody set it."""
    gpus: tuple[str, ...]
    """Names of the GPUs that torch may use."""
    free_disk_gib: float
    """Free where Ray keeps its logs and spilled objects, the temporary folder."""
    free_memory_gib: float
    """Available memory, within the container's limit where there is one."""


def read_host_info(names: Iterable[str]) -> HostInfo:
    """Ask this machine."""
    return HostInfo(
        host=platform.node(),
        python=platform.python_version(),
        libraries={name: _installed(name) for name in names},
        auth_mode=os.environ.get("RAY_AUTH_MODE"),
        gpus=_gpu_names(),
        free_disk_gib=shutil.disk_usage(tempfile.gettempdir()).free / GIB,
        free_memory_gib=_free_memory() / GIB,
    )


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _gpu_names() -> tuple[str, ...]:
    # A machine on which torch is missing or broken is one that the doctor is asked about.
    try:
        import torch

        return tuple(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
    except (ImportError, OSError, RuntimeError):
        return ()


def _free_memory() -> int:
    """Bytes that a process may still take; all there are where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in lines if "kB" in line}
    available = kilobytes["MemAvailable"] * 1024
    try:
        limit = int((CGROUP / "memory.max").read_text())
        return min(available, limit - int((CGROUP / "memory.current").read_text()))
    except (OSError, ValueError):
        # No such limit: another kind of machine, or the word "max".
        return available


MARK = b"written by jobs/doctor.py, which removes it\n"


def leave_mark(uri: str, name: str) -> str | None:
    """Write a mark and read it back; what went wrong, or None."""
    try:
        storage = open_storage(uri)
        storage.write(_key(name), MARK)
        return None if storage.read(_key(name)) == MARK else "it gave back other bytes"
    except InputError as refusal:
        return str(refusal)


def find_mark(uri: str, name: str) -> bool:
    """Whether a mark can be read here."""
    try:
        return open_storage(uri).read(_key(name)) == MARK
    except InputError:
        return False


def remove_mark(uri: str, name: str) -> str | None:
    """Delete a mark; what went wrong, or None."""
    try:
        open_storage(uri).delete(_key(name))
    except InputError as refusal:
        return str(refusal)
    return None


def _key(name: str) -> str:
    # Readers of a dataset pass over names with an underscore.
    return f"_doctor-{name}"
