"""Versions of a dataset's manifest: each is created once, and readers use the newest version.

Publishing is optimistic concurrency control (Kung and Robinson, ACM TODS 1981,
https://doi.org/10.1145/319566.319567): the driver creates the file of the next version number, and
a driver that finds the file there has lost the race. The lease (:mod:`pipeline.traces.lease`)
makes such races rare.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from dqar.regular_file import DOCUMENT_BYTES
from pipeline.errors import InputError
from pipeline.storage.json_schema import Malformed, parse
from pipeline.storage.object_store import Storage
from pipeline.traces.document_digest import DOCUMENT_VERSION, WITHOUT_DIGEST, with_digest
from pipeline.traces.document_schemas import check_manifest
from pipeline.traces.shards import as_json, is_whole, listed_sizes, parts_of

VERSION = re.compile(r"v([0-9]{6,})\.json")
LARGEST_VERSION = 10**12
"""Number that no version reaches."""
MANIFEST_BYTES = 1 << 31
"""Largest size of a manifest in bytes; a unit takes about 2,000."""


def read_document(
    storage: Storage,
    key: str,
    check: Callable[[dict[str, Any]], None],
    at_most: int = DOCUMENT_BYTES,
) -> dict[str, Any] | None:
    """Read a JSON document and check it; return None if there is no such file.

    Args:
        storage: where the document is.
        key: name of its file.
        check: raises Malformed if the document is not what it must be.
        at_most: bytes of the largest file that is read.

    Raises:
        InputError: naming the file and what is wrong with it.
    """
    data = storage.read(key, at_most)
    if data is None:
        return None
    try:
        document = parse(data)
        check(document)
    except Malformed as error:
        # "It must be ..." of the document as a whole; "FIELD must be ..." of one of its fields.
        wrong = f"{storage}/{key}: {error}".replace(": It must", " must", 1)
        raise InputError(f"{wrong} Restore the file, or collect into a new folder.") from error
    return document


def newest_manifest(storage: Storage) -> dict[str, Any] | None:
    """Read the newest manifest version and check it; return None before the first version.

    Raises:
        InputError: if the manifest has another schema version, no units or an invalid document.
    """
    return _newest(storage)[1]


def publish_manifest(storage: Storage, manifest: dict[str, Any]) -> dict[str, Any]:
    """Create the next manifest version with its digest, unless the newest version is equal.

    Returns:
        The manifest as it stands in storage, with its schema version and its digest.

    Raises:
        InputError: if a shard that the manifest names is missing or truncated, or another driver
            published the same version number.
    """
    manifest = with_digest(manifest)
    version, latest = _newest(storage)
    if latest == manifest:
        return manifest
    _refuse_missing_shards(storage, manifest)
    key = f"_manifest/v{version + 1:06d}.json"
    # If the file exists with the same contents, a request of this driver succeeded unanswered.
    if not storage.create(key, as_json(manifest)) and _newest(storage)[1] != manifest:
        raise InputError(
            f"One driver at a time must publish in {storage}. Got {key} from another driver. "
            "Run the jobs/collect.py command again once that driver has ended."
        )
    return manifest


def _refuse_missing_shards(storage: Storage, manifest: dict[str, Any]) -> None:
    sizes = listed_sizes(storage)
    for part in parts_of(manifest):
        if not is_whole(part, sizes.get):
            raise InputError(
                f"All shards must be in {storage}, whole, before a manifest is published. Got a "
                f"missing or truncated shard of unit {part['units'][0]}. Run the jobs/collect.py "
                "command again to collect that unit again."
            )


def _newest(storage: Storage) -> tuple[int, dict[str, Any] | None]:
    found = [match for name in storage.names("_manifest") if (match := VERSION.fullmatch(name))]
    if not found:
        return 0, None
    newest = max(found, key=lambda match: int(match[1]))
    key, version = f"_manifest/{newest[0]}", int(newest[1])
    if version >= LARGEST_VERSION:
        raise InputError(
            f"{storage}/_manifest must hold versions below 10^12. Got {newest[0][:24]}, which no "
            "driver wrote. Move that file aside, then run the command again."
        )
    return version, read_document(storage, key, _check_of_this_version, MANIFEST_BYTES)


def _check_of_this_version(manifest: dict[str, Any]) -> None:
    if manifest.get("schema_version") not in (WITHOUT_DIGEST, DOCUMENT_VERSION):
        raise InputError(
            f"--traces must have schema version {WITHOUT_DIGEST} or {DOCUMENT_VERSION}. Got "
            f"{repr(manifest.get('schema_version'))[:20]} in its manifest. Read the traces with "
            "the release that collected them, or collect them again with this release."
        )
    if manifest.get("units") == []:
        raise InputError(
            "--traces must hold trajectories. Got an empty collection. Run jobs/collect.py with "
            "--num-trajectories above 0."
        )
    check_manifest(manifest)
