"""Checks of paths that a user typed, made before any work: one line that names the flag."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from pipeline.errors import InputError

LONGEST_NAME = 255
"""Bytes of a file's name on Linux file systems."""
LONGEST_PATH = 4096 - 256
"""Bytes of a folder's path that leave room for the names of a stage's files in Linux's 4096."""
SCHEMES = ("s3:", "gs:", "file:", "models:")


def inside_ray_job() -> bool:
    """Return True if this process is the driver of a submitted Ray job."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def refuse_odd_paths(**paths: str | None) -> None:
    """Refuse paths that no file system here can have, and relative paths inside a Ray job.

    Args:
        paths: path or URI of each flag, by the flag's name with underscores; None if not given. A
            ``model`` may also be a name, which is not relative to the working folder.

    Raises:
        InputError: naming the flag.
    """
    for name, path in paths.items():
        if path is not None and not is_uri(path):
            flag = f"--{name.replace('_', '-')}"
            refuse_impossible(path, flag)
            if name != "model":
                _refuse_relative_inside_job(path, flag)


def is_uri(path: str) -> bool:
    """Return True for a URI; pathlib collapses the slashes of a URI to s3:/bucket."""
    return "://" in path or path.startswith(SCHEMES)


def _refuse_relative_inside_job(path: str, flag: str) -> None:
    """Refuse a relative path inside a Ray job, where it would be lost with Ray's working folder."""
    if not os.path.isabs(path) and inside_ray_job():
        raise InputError(
            f"{flag} must be absolute inside a Ray job, where the working folder is temporary. Got "
            f"{path!r}. Pass an absolute path or a storage URI."
        )


def refuse_impossible(path: str, flag: str) -> None:
    """Refuse a path that this machine's file systems cannot have.

    Raises:
        InputError: for a name or path that is too long, a loop of links, a folder that may not be
            entered, and a NUL.
    """
    if reason := _impossibility(path):
        raise InputError(
            f"{flag} must be a path that this machine can have. Got {path[:80]!r}: {reason}. "
            f"{'Name another folder' if flag == '--out' else 'Correct the path'}."
        )


def _impossibility(path: str) -> str:
    if "\0" in path:
        return "a NUL in a name"
    absolute = Path(path).absolute()
    # The kernel looks no further than the first folder that is missing.
    longest = max(len(os.fsencode(name)) for name in absolute.parts)
    if longest > LONGEST_NAME:
        return f"a name of {longest} bytes, where {LONGEST_NAME} are the most"
    if (length := len(os.fsencode(absolute))) > LONGEST_PATH:
        return f"a path of {length} bytes, where {LONGEST_PATH} are the most"
    try:
        absolute.stat()
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except OSError as error:
        return str(error.strerror)
    return ""


def refuse_no_folder(out: str) -> None:
    """Refuse an output folder that is a file, and one whose place cannot be written to.

    A folder with a random name is made in the nearest folder that exists, and removed: the
    permission bits say nothing of /proc, read-only mounts and the superuser.

    Raises:
        InputError: if the folder cannot be created or not written to.
    """
    refuse_impossible(out, "--out")
    wanted = Path(out).absolute()
    # A link to nowhere exists as a link, so that no folder can be made in its place.
    nearest = next(path for path in (wanted, *wanted.parents) if os.path.lexists(path))
    # mkdir would make the missing folder, and then leave it.
    is_back = ".." in wanted.relative_to(nearest).parts
    if reason := "a .. below it leaves a missing folder" if is_back else _obstacle(nearest):
        raise InputError(
            f"--out must be a folder that can be written to. Got {out}, with {nearest} in the way: "
            f"{reason}. Name another folder."
        )


def _obstacle(folder: Path) -> str:
    if not folder.is_dir():
        return "it is a link to nowhere" if folder.is_symlink() else "it is a file"
    try:
        os.rmdir(tempfile.mkdtemp(prefix="_", dir=folder))
    except OSError as error:
        return f"writing there ends in the error: {error.strerror}"
    return ""
