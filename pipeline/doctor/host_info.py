"""Facts about one machine, collected on the driver and, through Ray, on a worker."""

from __future__ import annotations

import os
import platform
import re
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pipeline.errors import InputError
from pipeline.storage.object_store import open_storage

GIB = 2**30
MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, kw_only=True, slots=True)
class HostInfo:
    """Versions and free room of one machine, as a process on that machine sees them."""

    host: str
    """Network name of the machine."""
    python: str
    """Version of Python, such as 3.11.9."""
    libraries: dict[str, str | None]
    """Installed version of each requested library; None for a library that is not installed."""
    auth_mode: str | None
    """``RAY_AUTH_MODE`` of the process: token, disabled, or None if the variable is not set."""
    gpus: tuple[str, ...]
    """Names of the GPUs that torch may use."""
    free_disk_gib: float
    """Free disk in the temporary folder, where Ray keeps its logs and spilled objects, GiB."""
    free_memory_gib: float
    """Available memory, within the limit of the container if there is one, GiB."""


def read_host_info(names: Iterable[str]) -> HostInfo:
    """Collect the facts about this machine.

    Args:
        names: libraries whose versions are looked up.
    """
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
    # A missing or broken torch must end as a finding, not as an error of the doctor.
    try:
        import torch

        return tuple(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
    except Exception:
        return ()


def _all_memory() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _free_memory() -> int:
    """Return the bytes that a process may still take; all memory on systems without /proc."""
    try:
        text = MEMINFO.read_text(errors="replace")
    except OSError:
        return _all_memory()
    found = re.search(r"^MemAvailable:\s+(\d+) kB$", text, re.MULTILINE)
    if found is None:
        return _all_memory()
    available = int(found[1]) * 1024
    try:
        limit = int((CGROUP / "memory.max").read_text())
        return min(available, limit - int((CGROUP / "memory.current").read_text()))
    except (OSError, ValueError):
        # There is no limit: no cgroup v2, or the limit reads "max".
        return available


MARK = b"written by jobs/doctor.py, which removes it\n"


def leave_mark(uri: str, name: str) -> str | None:
    """Write a small file and read it back; return the error, or None.

    Args:
        uri: folder or storage URI.
        name: name of the file, without its prefix.
    """
    be_impatient()
    try:
        storage = open_storage(uri)
        storage.write(_key(name), MARK)
        return None if storage.read(_key(name)) == MARK else "other bytes were read back"
    except InputError as refusal:
        return str(refusal)


def find_mark(uri: str, name: str) -> bool:
    """Return True if the file of :func:`leave_mark` can be read on this machine."""
    be_impatient()
    try:
        return open_storage(uri).read(_key(name)) == MARK
    except InputError:
        return False


def remove_mark(uri: str, name: str) -> str | None:
    """Delete the file of :func:`leave_mark`; return the error, or None."""
    try:
        open_storage(uri).delete(_key(name))
    except InputError as refusal:
        return str(refusal)
    return None


def be_impatient() -> None:
    """Wait 10 s for storage in this process, unless its environment says otherwise."""
    # A doctor need not bridge an outage, as a collection does.
    os.environ.setdefault("DQAR_STORAGE_TIMEOUT_S", "10")


def _key(name: str) -> str:
    # Readers of a dataset ignore names that start with an underscore.
    return f"_doctor-{name}"
