"""Writing of an output folder: marked as unfinished first, the file that completes it last."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from pipeline.errors import IncompleteError, StorageError
from pipeline.storage.file_errors import REASONS, refusal_of
from pipeline.storage.local_folder import LocalFolder
from pipeline.storage.object_store import Root
from pipeline.storage.unfinished_mark import MARK, mark_of


@contextmanager
def unfinished(folder: Path, last: str) -> Iterator[None]:
    """Mark a folder on entry and remove the mark on exit, unless the block raises.

    A run that is killed in the block leaves the mark, and the same command may write there again.

    Args:
        folder: the output folder, which is made if missing.
        last: name of the file that the block writes at its end.

    Raises:
        IncompleteError: as :func:`work_begun`.
    """
    storage = LocalFolder(path=folder)
    with work_begun(folder):
        storage.write(MARK, mark_of(last))
        yield
        storage.delete(MARK)


@contextmanager
def written_last(path: Path, document: Any) -> Iterator[None]:
    """Remove a JSON file on entry and write it on exit, after all other files of its folder.

    A folder that holds the JSON file is therefore complete; until then it is marked as unfinished.
    """
    storage = LocalFolder(path=path.parent)
    with unfinished(path.parent, path.name):
        storage.delete(path.name)
        yield
        storage.write(path.name, (json.dumps(document, indent=1) + "\n").encode())


@contextmanager
def work_begun(place: Root) -> Iterator[None]:
    """Raise an error of storage in the block, which follows the checks of the input, as work left
    undone.

    Args:
        place: storage that the block writes to, for errors that name no path.

    Raises:
        IncompleteError: for a full disk, a store that does not answer and the like.
    """
    try:
        yield
    except StorageError as error:
        raise IncompleteError(str(error)) from error
    except (OSError, SafetensorError) as error:
        known = error if isinstance(error, OSError) else _system_error(error)
        # Others, such as those of a connection to MLflow, say nothing about this place.
        if known.errno not in REASONS:
            raise
        raise IncompleteError(str(refusal_of(known, Path(str(place))))) from error


def _system_error(error: SafetensorError) -> OSError:
    """Return the error of the system that safetensors, which is written in Rust, tells as text."""
    number = re.search(r"\(os error (\d+)\)", str(error))
    return OSError(int(number[1]), str(error)) if number else OSError(str(error))
