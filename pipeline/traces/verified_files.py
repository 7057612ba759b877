"""Verification of shards: each file is compared with its SHA-256 once on a machine.

Page checksums of Parquet cover the values of a page, but not the page's header or the footer, which
say what the values are. The digest in the manifest covers every byte of a file. Verified files are
remembered in the cache of the machine (:mod:`pipeline.storage.machine_cache`), until their storage
shows that they changed: by size, inode and times in a folder, by ETag on an object store.
"""

from __future__ import annotations

import hashlib
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pipeline.errors import InputError
from pipeline.storage.machine_cache import recall, remember
from pipeline.storage.object_store import Storage

Files = dict[str, dict[str, Any]]
"""Files by storage key, with their ``bytes`` and ``sha256``."""
KIND = "verified-files"
LARGE = 1 << 26
"""Bytes from which the comparison of a table is remembered. Fewer are compared at each open: one
core hashes them in a tenth of a second, and nothing is left in the user's cache."""
AT_ONCE = 8
"""Files that are read at the same time, with at most 8 MiB of each in memory."""


def verify_files(storage: Storage, files: Files) -> None:
    """Compare each file with its SHA-256, unless this machine has verified the large table before.

    Prints one line with the bytes and the seconds if a file is read.

    Raises:
        InputError: naming the first file with other contents.
    """
    # Taken before reading, so that a file that changes meanwhile is read again the next time.
    records = _records(storage, files)
    known = {record for table in _tables(files) for record in _recalled(storage, table)}
    unread = {key: file for key, file in files.items() if records.get(key) not in known}
    if unread:
        _read(storage, unread)
        for table in filter(lambda table: _size_of(files, table) >= LARGE, _tables(files)):
            mine = [record for key, record in records.items() if key.startswith(f"{table}/")]
            remember(KIND, (storage.address, table), "\n".join(mine))


def _tables(files: Files) -> list[str]:
    return sorted({key.partition("/")[0] for key in files})


def _size_of(files: Files, table: str) -> int:
    return sum(file["bytes"] for key, file in files.items() if key.startswith(f"{table}/"))


def _records(storage: Storage, files: Files) -> dict[str, str]:
    """Return a digest of place, contents and time of change of each file whose time is known."""
    stamps = {
        f"{table}/{name}": stamp
        for table in _tables(files)
        for name, stamp in storage.stamps(table).items()
    }
    return {
        key: hashlib.sha256(
            repr((storage.address, key, file["sha256"], stamps[key])).encode()
        ).hexdigest()
        for key, file in files.items()
        if key in stamps
    }


def _recalled(storage: Storage, table: str) -> list[str]:
    return recall(KIND, (storage.address, table)).split("\n")


def _read(storage: Storage, files: Files) -> None:
    megabytes = sum(file["bytes"] for file in files.values()) / 1e6
    what = f"{len(files)} files ({megabytes:.1f} MB) of {storage}"
    print(f"verify: comparing {what} with their SHA-256", end="", flush=True)
    started = time.perf_counter()
    try:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            found = list(pool.map(storage.sha256, files))
    finally:
        print(f", {time.perf_counter() - started:.1f} s", flush=True)
    for (key, file), sha256 in zip(files.items(), found, strict=True):
        if sha256 != file["sha256"]:
            raise InputError(
                f"Shard {storage}/{key} must have the SHA-256 {file['sha256'][:16]}... of its "
                f"manifest. Got {sha256[:16]}...: the file was damaged or replaced after it was "
                "written. Restore the file from a copy, or move it away and run the "
                "jobs/collect.py command of this folder again to collect its trajectories again."
            )
