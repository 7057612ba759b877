"""Checks of a job's output folder before any work."""

from __future__ import annotations

import os
from pathlib import Path

from pipeline.errors import InputError


def inside_ray_job() -> bool:
    """Whether this process is the driver of a submitted Ray job."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def refuse_relative_inside_job(**paths: str | None) -> None:
    """Inside a Ray job a relative path lands in Ray's temporary folder and is lost.

    Raises:
        InputError: if a path is relative and this process was submitted to Ray.
    """
    for flag, path in paths.items():
        lost = path is not None and "://" not in path and not os.path.isabs(path)
        if lost and inside_ray_job():
            raise InputError(
                f"--{flag.replace('_', '-')} must be absolute inside a Ray job, where the working "
                f"folder is temporary. Got {path!r}. Pass an absolute path or a storage URI."
            )


WRITTEN_FIRST = {"policy.safetensors", "frontier.png", "samples.png", "report.md", "plans"}
"""What a stage that is cut off while it writes leaves of a policy or of results."""


def refuse_other_files(out: str, ours: str) -> None:
    """A stage writes into a new folder, or over what it wrote itself.

    Raises:
        InputError: if the folder holds files but not ``ours``.
    """
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--out must be a folder. Got {out}, which is a file. Name a folder.")
    # What begins with an underscore is what a run that was cut off left to be taken up.
    found = {one.name for one in folder.iterdir()} if folder.exists() else set()
    others = {name for name in found - WRITTEN_FIRST if name[0] != "_"}
    if others and not (folder / ours).exists():
        raise InputError(
            f"--out must be a new folder or hold {ours} of an earlier run. Got {out}, which holds "
            "other files. Name another folder."
        )


def refuse_unwritable(out: str) -> None:
    """Tell before any work that what it gives could not be written.

    Raises:
        InputError: if the folder cannot be made, or not written to.
    """
    if "://" in out:
        raise InputError(f"--out must be a folder on this machine. Got {out!r}. Pass a path.")
    wanted = Path(out).absolute()
    nearest = next(path for path in (wanted, *wanted.parents) if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise InputError(
            f"--out must be a folder that can be written to. Got {out}, with {nearest} in the way: "
            "it is a file, or this user may not write there. Name another folder."
        )
