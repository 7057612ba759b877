"""Reasons and fixes for the errors of object stores, without the credentials in their texts."""

from __future__ import annotations

import re

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


def code_of(error: Exception) -> str:
    """Return S3's code of an error. The rest of the text holds key ids and must not be shown."""
    found = re.search(r"<Code>(\w{1,60})</Code>", str(error))
    return found[1] if found else ""


def reason_of(error: Exception) -> str:
    """Return S3's code of an error, or a few words of its text that hold no credentials."""
    first_line = str(error).partition("\n")[0]
    reason = re.search(r" - ([\w :-]{1,80})", first_line)
    return code_of(error) or (reason[1] if reason else type(error).__name__)
