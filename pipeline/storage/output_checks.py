"""Checks of a job's output folder, made before any work."""

from __future__ import annotations

import os
from pathlib import Path

from pipeline.errors import InputError
from pipeline.storage.path_checks import inside_ray_job as inside_ray_job
from pipeline.storage.path_checks import is_uri, refuse_impossible, refuse_no_folder
from pipeline.storage.unfinished_mark import is_unfinished


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
    refuse_impossible(out, "--out")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--out must be a folder. Got {out}, which is a file. Name a folder.")
    # Names with an underscore are what an interrupted run left to be resumed.
    found = set(_names_in(folder)) if folder.exists() else set()
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
    if is_uri(out):
        raise InputError(f"--out must be a folder on this machine. Got {out!r}. Pass a path.")
    refuse_no_folder(out)


def refuse_not_empty(out: str) -> None:
    """Refuse an output folder that is neither new nor empty, or cannot be written to.

    Raises:
        InputError: naming --out.
    """
    refuse_unwritable(out)
    folder = Path(out)
    if folder.exists() and list(_names_in(folder)):
        raise InputError(f"--out must be an empty or new folder. Got {out}. Name another.")


def _names_in(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError as error:
        raise InputError(
            f"--out must be a folder that can be read. Got {folder}: {error.strerror}. Name "
            "another folder."
        ) from error
