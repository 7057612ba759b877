"""Reasons and fixes for the errors of object stores, without the credentials in their texts."""

from __future__ import annotations

import re

from pipeline.storage.file_errors import AGAIN
from pipeline.storage.store_client import BrokenReadError

MENDS = {
    "AccessDenied": "Give the credentials of the environment access to the bucket",
    "InvalidAccessKeyId": "Set AWS_ACCESS_KEY_ID to a key that exists",
    "SignatureDoesNotMatch": "Set AWS_SECRET_ACCESS_KEY to the key's secret",
    "ExpiredToken": "Renew the credentials",
    "PermanentRedirect": "Set AWS_REGION to the bucket's region",
    "NoSuchBucket": "Create the bucket, or name another",
}
"""Fix to suggest for each error code of S3."""
DEFAULT_MEND = (
    "Check the credentials of the environment, AWS_REGION, AWS_ENDPOINT_URL (with "
    "AWS_ALLOW_HTTP=true for http) and the network"
)
UNREACHED = (
    "Check that the store at AWS_ENDPOINT_URL runs and that this machine reaches it, " + AGAIN
)
FAILURES: tuple[tuple[str, str, str], ...] = (
    (r"dns error|failed to lookup", "the name of its host is not known to DNS", UNREACHED),
    (r"ConnectionRefused|Connection refused", "its host refused the connection", UNREACHED),
    (r"kind: Timeout", "it did not answer in time (DQAR_STORAGE_TIMEOUT_S)", UNREACHED),
    (r"kind: Connect", "no connection to its host", UNREACHED),
    (r"non-2xx status code: 5|status: 5\d\d", "", UNREACHED),
)
"""Pattern in an error's text, what happened (empty: the text's own words), and what to do."""
BROKEN = "The store, or a proxy on the way, ends its answers early: check it, " + AGAIN


def code_of(error: Exception) -> str:
    """Return S3's code of an error. The rest of the text holds key ids and must not be shown."""
    found = re.search(r"<Code>(\w{1,60})</Code>", str(error))
    return found[1] if found else ""


def reason_of(error: Exception) -> str:
    """Return S3's code of an error, or a few words of its text that hold no credentials."""
    if isinstance(error, BrokenReadError):
        return str(error)
    first_line = str(error).partition("\n")[0]
    reason = re.search(r" - ([\w :-]{1,80})", first_line)
    own_words = reason[1].strip(" :") if reason else type(error).__name__
    return code_of(error) or _failure_of(error)[0] or own_words


def mend_of(error: Exception) -> str:
    """Return what to do about an error; credentials are named only where they may be the reason."""
    if isinstance(error, BrokenReadError):
        return BROKEN
    return MENDS.get(code_of(error)) or _failure_of(error)[1] or DEFAULT_MEND


def _failure_of(error: Exception) -> tuple[str, str]:
    text = str(error)
    found = (row[1:] for row in FAILURES if re.search(row[0], text))
    what, fix = next(found, ("", ""))
    return what, fix
