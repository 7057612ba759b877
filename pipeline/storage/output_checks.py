"""Checks of a job's output folder, made before any work."""

from __future__ import annotations

import os
from pathlib import Path

from pipeline.errors import InputError
from pipeline.storage.unfinished_mark import is_unfinished


def inside_ray_job() -> bool:
    """Return True if this process is the driver of a submitted Ray job."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def refuse_relative_inside_job(**paths: str | None) -> None:
    """Refuse relative paths inside a Ray job, where they would be lost with Ray's working folder.

    Args:
        paths: path or URI of each flag, by the flag's name with underscores; None if not given.

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


def refuse_other_files(out: str, ours: str) -> None:
    """Refuse an output folder that is neither new nor written by an earlier run of the stage.

    Args:
        out: the folder.
        ours: name of the file that marks the stage's own folders.

    Raises:
        InputError: if the folder holds files but neither ``ours`` nor the mark that an interrupted
            run of the stage leaves.
    """
    folder = Path(out)
    _refuse_impossible(out)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--out must be a folder. Got {out}, which is a file. Name a folder.")
    # Names with an underscore are what an interrupted run left to be resumed.
    found = {one.name for one in folder.iterdir()} if folder.exists() else set()
    others = {name for name in found if name[0] != "_"}
    if others and not (folder / ours).exists() and not is_unfinished(folder, ours):
        raise InputError(
            f"--out must be a new folder or hold {ours} of an earlier run. Got {out}, which holds "
            "other files. Name another folder."
        )


def refuse_unwritable(out: str) -> None:
    """Refuse an output folder that cannot be written to.

    Raises:
        InputError: if the folder cannot be created or not written to.
    """
    if "://" in out:
        raise InputError(f"--out must be a folder on this machine. Got {out!r}. Pass a path.")
    wanted = Path(out).absolute()
    _refuse_impossible(out)
    nearest = next(path for path in (wanted, *wanted.parents) if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise InputError(
            f"--out must be a folder that can be written to. Got {out}, with {nearest} in the way: "
            "it is a file, or this user may not write there. Name another folder."
        )


def _refuse_impossible(out: str) -> None:
    """Refuse a path that this machine's file systems cannot have, such as a name too long."""
    try:
        Path(out).absolute().stat()
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise InputError(
            f"--out must be a path that this machine can have. Got {out[:80]!r}: "
            f"{error.strerror}. Name another folder."
        ) from error
