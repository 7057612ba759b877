"""Checks of a cluster: pure functions from facts about machines to findings."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.cluster.capacity import ACCELERATOR_LABEL
from pipeline.cluster.hardware import refuse_other_device
from pipeline.doctor.host_info import HostInfo
from pipeline.errors import InputError
from pipeline.redaction import without_secrets

LEAST_DISK_GIB = 10.0
"""Room for a day of logs, spilled objects and a model's weights: assumed, not measured."""
LEAST_MEMORY_GIB = 4.0
"""Room for a worker with torch, diffusers and a small model: assumed, not measured."""
WORKER = "a worker"
"""Subject of the findings about storage and tracking."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """Result of one check."""

    name: str
    """Subject of the check in a word or two, such as ``worker versions``."""
    is_ok: bool
    """True if jobs can rely on the subject."""
    said: str
    """Facts that were found; for a failed check also its fix."""

    def __str__(self) -> str:
        said = without_secrets(" ".join(self.said.split()))
        return f"{'ok' if self.is_ok else 'FAIL':4}  {self.name:15}  {said}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Pins:
    """Libraries that ``pyproject.toml`` requires, and versions that ``constraints.txt`` pins."""

    needed: tuple[str, ...]
    """Normalised names of the libraries that a worker requires."""
    versions: dict[str, str]
    """Pinned version of each library, by its normalised name."""


def read_pins(pyproject: str, constraints: str) -> Pins:
    """Parse the texts of ``pyproject.toml`` and ``constraints.txt``."""
    wanted = tomllib.loads(pyproject)["project"]["dependencies"]
    pinned = (line.split("==") for line in constraints.split() if "==" in line)
    return Pins(
        needed=tuple(_normal(re.split(r"[^\w.-]", entry)[0]) for entry in wanted),
        versions={_normal(name): version for name, version in pinned},
    )


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def check_libraries(where: str, host: HostInfo, pins: Pins) -> Finding:
    """Check that each required library is installed in the pinned version.

    A local label of a version, such as ``+cpu``, may differ.

    Args:
        where: role of the machine, such as ``driver``.
    """
    wrong = []
    for name in pins.needed:
        found, wanted = host.libraries.get(name), pins.versions.get(name)
        if found is None:
            wrong.append(f"{name} is missing")
        elif wanted is not None and found.partition("+")[0] != wanted:
            wrong.append(f"{name} {found}, not {wanted}")
    if not wrong:
        said = f"{len(pins.needed)} libraries as pinned on {host.host}, python {host.python}"
        return Finding(name=f"{where} versions", is_ok=True, said=said)
    said = (
        f"{host.host}: {'; '.join(wrong)}. Run pip install -c constraints.txt -e . on that "
        "machine, or use an image that has the pinned versions."
    )
    return Finding(name=f"{where} versions", is_ok=False, said=said)


def check_python(driver: HostInfo, worker: HostInfo) -> Finding:
    """Check that driver and worker run the same minor version of Python, 3.11 or later.

    Ray pickles functions by their bytecode, which differs between minor versions.
    """
    versions = [tuple(map(int, found.python.split(".")[:2])) for found in (driver, worker)]
    said = f"{driver.python} on the driver, {worker.python} on the worker"
    if versions[0] == versions[1] >= (3, 11):
        return Finding(name="python", is_ok=True, said=said)
    return Finding(
        name="python",
        is_ok=False,
        said=f"{said}. Use the same minor version of Python, 3.11 or later, on both: one image for "
        "head and workers.",
    )


def check_auth(mode: str | None, *, is_private: bool) -> Finding:
    """Check that a cluster which others can reach asks for a token.

    Args:
        mode: ``RAY_AUTH_MODE`` of the processes of the cluster.
        is_private: True if this process started Ray for itself, without the Jobs API.
    """
    if mode == "token":
        return Finding(name="auth", is_ok=True, said="RAY_AUTH_MODE=token")
    if is_private:
        return Finding(
            name="auth", is_ok=True, said="local Ray inside this process, without Jobs API"
        )
    return Finding(
        name="auth",
        is_ok=False,
        said=f"RAY_AUTH_MODE is {mode or 'not set'}: anyone who reaches the Jobs API can run any "
        "command. Set RAY_AUTH_MODE=token on all nodes before ray start (docs/cluster.md).",
    )


def check_storage(uri: str, *, wrote: str | None, is_seen: bool, who: str = WORKER) -> Finding:
    """Check that a worker can write, read and delete, and that the driver sees the worker's file.

    Args:
        uri: folder or storage URI that was tried.
        wrote: error of the worker; None for success.
        is_seen: True if the driver read the file that the worker wrote.
        who: machine that was asked to write.
    """
    if wrote is None and is_seen:
        said = f"{who} wrote a file in {uri}, the driver read it, {who} deleted it"
        return Finding(name="storage", is_ok=True, said=said)
    if wrote is None:
        fix = "Pass s3:// or gs://, or a folder that all nodes mount at the same path."
        said = f"the driver does not see the file that {who} wrote to {uri}. {fix}"
    else:
        said = (
            f"{who} cannot write to {uri}: {wrote}. Check the URI, and that the profile of the "
            "workers (IamInstanceProfile, serviceAccounts) may write to that storage."
        )
    return Finding(name="storage", is_ok=False, said=said)


def check_tracking(uri: str, error: str | None, who: str = WORKER) -> Finding:
    """Check that MLflow answered the API call of a worker.

    Args:
        error: error of the call; None for an answer.
        who: machine that called.
    """
    if error is None:
        said = without_secrets(f"{uri} answered the call of {who}")
        return Finding(name="mlflow", is_ok=True, said=said)
    if re.search(r"error code 403\b", error) or "Invalid Host header" in error:
        host = uri.partition("://")[2].partition("/")[0].partition(":")[0]
        allowed = f"{host},{host}:*,localhost:*,127.0.0.1:*"
        fix = (
            "The server answers, but refuses this host name. Start mlflow server with "
            f"--allowed-hosts '{allowed}', which replaces the default list."
        )
    elif re.search(r"error code 401\b", error):
        fix = "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD on the nodes."
    else:
        fix = "Start mlflow server on an address that the workers reach, and open its port."
    said = f"{uri} did not answer the call of {who}: {error[:200]}. {fix}"
    return Finding(name="mlflow", is_ok=False, said=without_secrets(said))


def check_accelerator(
    wanted: str | None, nodes: Iterable[Mapping[str, Any]], worker: HostInfo | None
) -> Finding:
    """Check that a worker that asked for an accelerator got one of that type.

    Args:
        wanted: Ray's accelerator type, such as A100 or A100-40G; None accepts any machine.
        nodes: living nodes, each with its ``Resources`` and ``Labels``, after the worker ran.
        worker: facts of the worker's machine; None if no node could start the worker in time.
    """
    nodes = list(nodes)
    gpus = sum(node["Resources"].get("GPU", 0) for node in nodes)
    if wanted is None:
        said = f"{gpus:g} GPUs on {len(nodes)} nodes; without --accelerator-type no type is checked"
        return Finding(name="accelerator", is_ok=True, said=said)
    if worker is None:
        said = f"no node offered a GPU and accelerator_type:{wanted} in time. {_declare(wanted)}"
    elif not any(_is_of(wanted, name) for name in worker.gpus):
        said = (
            f"{worker.host} declares {wanted}, but torch finds {worker.gpus or 'no GPU'}. Remove "
            "that resource from nodes without such a GPU; check the GPU driver with nvidia-smi."
        )
    else:
        said = f"{worker.gpus[0]} on {worker.host}; {gpus:g} GPUs on {len(nodes)} nodes"
        return Finding(name="accelerator", is_ok=True, said=said)
    return Finding(name="accelerator", is_ok=False, said=said)


def _is_of(wanted: str, name: str) -> bool:
    # The same comparison refuses a worker of an evaluation on another GPU.
    try:
        refuse_other_device(name, wanted)
    except InputError:
        return False
    return True


def _declare(wanted: str) -> str:
    return (
        f'Declare resources GPU and "accelerator_type:{wanted}" and the label {ACCELERATOR_LABEL} '
        "of the node type, as cluster.yaml does; ray status lists nodes that cannot start."
    )


def check_room(host: HostInfo) -> list[Finding]:
    """Check the free disk and the free memory of a worker's machine."""
    room = (
        ("disk", host.free_disk_gib, LEAST_DISK_GIB, "Give the nodes a larger disk"),
        ("memory", host.free_memory_gib, LEAST_MEMORY_GIB, "Give the nodes more memory"),
    )
    return [
        Finding(
            name=name,
            is_ok=free >= least,
            said=f"{free:.1f} GiB free on {host.host}"
            + ("" if free >= least else f", fewer than {least:g}. {fix}, or free some {name}."),
        )
        for name, free, least, fix in room
    ]


def check_model(model: str, driver: str, worker: str) -> Finding:
    """Check that driver and worker find the same weights.

    Args:
        driver: hash of the weights that the driver finds, or its error.
        worker: hash of the weights that a worker finds, or its error.
    """
    if driver == worker:
        return Finding(
            name="model", is_ok=True, said=f"{model}: hash {driver} on driver and worker"
        )
    return Finding(
        name="model",
        is_ok=False,
        said=f"{model}: {driver} on the driver, {worker} on a worker. Pass a hub id, or a folder "
        "that all nodes mount.",
    )
