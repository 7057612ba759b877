"""Verdicts on a cluster: facts in, findings out. Nothing here asks anything of a machine."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.cluster.capacity import ACCELERATOR_LABEL
from pipeline.cluster.hardware import refuse_other_device
from pipeline.doctor.host_info import HostInfo
from pipeline.errors import InputError, without_secrets

LEAST_DISK_GIB = 10.0
"""A day of logs, spilled objects and a model's weights; an assumption, no measurement."""
LEAST_MEMORY_GIB = 4.0
"""A worker with torch, diffusers and a small model; an assumption, no measurement."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """What one check found."""

    name: str
    """What was checked, in a word or two."""
    is_ok: bool
    """Whether jobs can rely on it."""
    said: str
    """What was found; where it is not right, the mend."""

    def __str__(self) -> str:
        return f"{'ok' if self.is_ok else 'FAIL':4}  {self.name:15}  {' '.join(self.said.split())}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Pins:
    """What ``pyproject.toml`` needs and ``constraints.txt`` pins."""

    needed: tuple[str, ...]
    """Libraries that a worker cannot do without."""
    versions: dict[str, str]
    """Pinned version of each library, by its normal name."""


def read_pins(pyproject: str, constraints: str) -> Pins:
    """Parse both files' texts."""
    wanted = tomllib.loads(pyproject)["project"]["dependencies"]
    pinned = (line.split("==") for line in constraints.split() if "==" in line)
    return Pins(
        needed=tuple(_normal(re.split(r"[^\w.-]", entry)[0]) for entry in wanted),
        versions={_normal(name): version for name, version in pinned},
    )


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def check_libraries(where: str, vitals: HostInfo, pins: Pins) -> Finding:
    """Every needed library is there, in the pinned version; a local label such as +cpu is free."""
    wrong = []
    for name in pins.needed:
        found, wanted = vitals.libraries.get(name), pins.versions.get(name)
        if found is None:
            wrong.append(f"{name} is missing")
        elif wanted is not None and found.partition("+")[0] != wanted:
            wrong.append(f"{name} {found}, not {wanted}")
    if not wrong:
        said = f"{len(pins.needed)} as pinned on {vitals.host}, python {vitals.python}"
        return Finding(name=f"{where} versions", is_ok=True, said=said)
    said = (
        f"{vitals.host}: {'; '.join(wrong)}. Install there: pip install -c constraints.txt -e ., "
        "or use the image that holds them."
    )
    return Finding(name=f"{where} versions", is_ok=False, said=said)


def check_python(driver: HostInfo, worker: HostInfo) -> Finding:
    """Driver and workers run the same minor version, 3.11 or later: pickles need it."""
    versions = [tuple(map(int, found.python.split(".")[:2])) for found in (driver, worker)]
    said = f"{driver.python} on the driver, {worker.python} on the worker"
    if versions[0] == versions[1] >= (3, 11):
        return Finding(name="python", is_ok=True, said=said)
    return Finding(
        name="python",
        is_ok=False,
        said=f"{said}. Give both the same, 3.11 or later: one image for head and workers.",
    )


def check_auth(mode: str | None, *, is_private: bool) -> Finding:
    """A cluster that others can reach asks for a token.

    Args:
        mode: ``RAY_AUTH_MODE`` of the cluster's processes.
        is_private: whether Ray was started inside this process, without Jobs API.
    """
    if mode == "token":
        return Finding(name="auth", is_ok=True, said="RAY_AUTH_MODE=token")
    if is_private:
        return Finding(name="auth", is_ok=True, said="a local Ray of this process, no Jobs API")
    return Finding(
        name="auth",
        is_ok=False,
        said=f"RAY_AUTH_MODE is {mode or 'not set'}: whoever reaches the Jobs API runs what they "
        "like. Set RAY_AUTH_MODE=token on all nodes before ray start (docs/cluster.md).",
    )


def check_storage(uri: str, *, wrote: str | None, is_seen: bool) -> Finding:
    """A worker could write, read and delete, and the driver saw what it wrote.

    Args:
        uri: where.
        wrote: what went wrong on the worker; None for nothing.
        is_seen: whether the driver found the worker's mark.
    """
    if wrote is None and is_seen:
        said = f"a worker wrote, the driver read, the worker deleted in {uri}"
        return Finding(name="storage", is_ok=True, said=said)
    if wrote is None:
        mend = "Pass s3:// or gs://, or a folder that all nodes mount at the same path."
        said = f"the driver does not see what a worker wrote to {uri}. {mend}"
    else:
        said = (
            f"a worker cannot write to {uri}: {wrote}. Check the name, and that the workers' "
            "profile (IamInstanceProfile, serviceAccounts) may write there."
        )
    return Finding(name="storage", is_ok=False, said=said)


def check_tracking(uri: str, error: str | None) -> Finding:
    """MLflow answered a worker's API call."""
    if error is None:
        said = without_secrets(f"{uri} answered a worker")
        return Finding(name="mlflow", is_ok=True, said=said)
    if re.search(r"error code 403\b", error) or "Invalid Host header" in error:
        host = uri.partition("://")[2].partition("/")[0].partition(":")[0]
        allowed = f"{host},{host}:*,localhost:*,127.0.0.1:*"
        mend = (
            f"It answers, but not under this name. Start it with --allowed-hosts '{allowed}', "
            "which replaces its defaults."
        )
    elif re.search(r"error code 401\b", error):
        mend = "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD on the nodes."
    else:
        mend = "Start mlflow server on an address that the workers reach, and open its port."
    said = f"{uri} did not answer a worker: {error[:200]}. {mend}"
    return Finding(name="mlflow", is_ok=False, said=without_secrets(said))


def check_accelerator(
    wanted: str | None, nodes: Iterable[Mapping[str, Any]], worker: HostInfo | None
) -> Finding:
    """A worker that asked for an accelerator got it.

    Args:
        wanted: Ray's accelerator type, such as A100 or A100-40G; None for whatever is there.
        nodes: living nodes, each with its ``Resources`` and ``Labels``, after the worker ran.
        worker: of the worker; None where no node could hold one in time.
    """
    nodes = list(nodes)
    gpus = sum(node["Resources"].get("GPU", 0) for node in nodes)
    if wanted is None:
        said = f"{gpus:g} GPUs on {len(nodes)} nodes; no type asked for (--accelerator-type)"
        return Finding(name="accelerator", is_ok=True, said=said)
    if worker is None:
        said = f"no node has a GPU and accelerator_type:{wanted} in time. {_declare(wanted)}"
    elif not any(_is_of(wanted, name) for name in worker.gpus):
        said = (
            f"{worker.host} is said to have {wanted}, but torch finds {worker.gpus or 'no GPU'}. "
            "Take the resource away from nodes that lack it; check the driver with nvidia-smi."
        )
    else:
        said = f"{worker.gpus[0]} on {worker.host}; {gpus:g} GPUs on {len(nodes)} nodes"
        return Finding(name="accelerator", is_ok=True, said=said)
    return Finding(name="accelerator", is_ok=False, said=said)


def _is_of(wanted: str, name: str) -> bool:
    # As workers of an evaluation judge it.
    try:
        refuse_other_device(name, wanted)
    except InputError:
        return False
    return True


def _declare(wanted: str) -> str:
    return (
        f'Declare resources GPU and "accelerator_type:{wanted}" and the label {ACCELERATOR_LABEL} '
        "of the node type, as cluster.yaml does; look at ray status for nodes that cannot start."
    )


def check_room(vitals: HostInfo) -> list[Finding]:
    """Free disk and memory of a worker's machine."""
    room = (
        ("disk", vitals.free_disk_gib, LEAST_DISK_GIB, "Give the nodes a larger disk"),
        ("memory", vitals.free_memory_gib, LEAST_MEMORY_GIB, "Give the nodes more memory"),
    )
    return [
        Finding(
            name=name,
            is_ok=free >= least,
            said=f"{free:.1f} GiB free on {vitals.host}"
            + ("" if free >= least else f", fewer than {least:g}. {mend}, or end what fills it."),
        )
        for name, free, least, mend in room
    ]


def check_model(model: str, driver: str, worker: str) -> Finding:
    """Driver and worker find the same weights, by their hash or by what went wrong."""
    if driver == worker:
        return Finding(name="model", is_ok=True, said=f"{model}: {driver} on driver and worker")
    return Finding(
        name="model",
        is_ok=False,
        said=f"{model}: {driver} on the driver, {worker} on a worker. Pass a hub id, or a folder "
        "that all nodes mount.",
    )
