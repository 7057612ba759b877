"""Digest of a JSON document, stored in the document: receipts and manifests of a traces folder.

The digest covers the values, not their layout: white space and the order of keys may change. It
reveals damage; it is no signature, since whoever edits a document can write a new digest.
"""

from __future__ import annotations

import hashlib
from typing import Any

from pipeline.exploration.collect_plan import canonical_json
from pipeline.storage.json_schema import Malformed

DIGEST = "document_digest"
"""Key of the digest."""
DOCUMENT_VERSION = 4
"""Schema version of receipts and manifests with a digest."""
WITHOUT_DIGEST = 3
"""Last schema version without a digest; receipts of that version do not name their version."""


def with_digest(document: dict[str, Any]) -> dict[str, Any]:
    """Return a document with its schema version and its digest."""
    numbered = {**document, "schema_version": DOCUMENT_VERSION}
    return {**numbered, DIGEST: _digest_of(numbered)}


def check_digest(document: dict[str, Any]) -> None:
    """Check the digest of a document; only an earlier schema version may lack one.

    Two fields would have to be damaged for a document to pass as one of an earlier version.

    Raises:
        Malformed: if the digest is missing or not that of the other fields.
    """
    is_earlier = document.get("schema_version", WITHOUT_DIGEST) == WITHOUT_DIGEST
    if is_earlier and DIGEST not in document:
        return
    if document.get(DIGEST) != (digest := _digest_of(document)):
        raise Malformed(
            f"{DIGEST} must be that of the other fields, {digest}. Got "
            f"{repr(document.get(DIGEST))[:80]}: the document was damaged or edited."
        )


def joint_digest(digests: list[str]) -> str:
    """Return the digest of digests in order, 16 hex digits."""
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()[:16]


def _digest_of(document: dict[str, Any]) -> str:
    fields = {name: value for name, value in document.items() if name != DIGEST}
    return hashlib.sha256(canonical_json(fields).encode()).hexdigest()
