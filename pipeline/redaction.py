"""Removal of secrets from texts that leave the process: messages, files, parameters, tracebacks."""

from __future__ import annotations

import os
import re
import shlex
import sys
import traceback
from collections.abc import Iterator
from urllib.parse import quote, unquote

HIDDEN = "..."
"""Text that takes the place of a secret."""
LEAST_LITERAL = 6
"""Fewest characters of a secret that is hidden wherever it occurs; a shorter one would also be
found within words and numbers, and is hidden inside URIs alone."""
SECRET_NAME = re.compile(
    r"(?:^|_)(?:PASSWORD|PASSWD|TOKEN|SECRET|API_KEY|ACCESS_KEY|PRIVATE_KEY|SECRET_KEY)$"
)
"""Names of environment variables whose values are secrets."""
USER = re.compile(r"(?<=//)(?=\S)[^\s]*@")
"""User name and password of a URI, up to the last @ of the word: a password may hold any
character."""
QUERY = re.compile(
    r"(?P<name>[?&;#](?!viewStateShareKey=)[^=&;#\s]*(?:token|passw|pwd|secret|key|sig|credential|auth)[^=&;#\s]*=)"
    r"[^&;#\s'\"]+",
    re.IGNORECASE,
)
"""Value of a query parameter whose name reads like a secret, such as ``X-Amz-Signature``. The key
of a saved view of MLflow's page is no secret."""
HEADER = re.compile(r"(?P<name>authorization\W{1,4}(?:basic|bearer)\s+)[^\s'\"]+", re.IGNORECASE)
"""Credentials in an HTTP header."""


def without_secrets(text: str) -> str:
    """Return a text without passwords and tokens.

    Hidden are the part before the @ of a URI, query parameters and headers with credentials, and,
    wherever they occur, the secrets of the environment and of the URIs on the command line.
    """
    for secret in _literals():
        text = text.replace(secret, HIDDEN)
    text = USER.sub(f"{HIDDEN}@", text)
    for pattern in (QUERY, HEADER):
        text = pattern.sub(rf"\g<name>{HIDDEN}", text)
    return text


def typed_command(job: str) -> str:
    """Return the command line of this process, ``python jobs/JOB ...``, without secrets."""
    return without_secrets(shlex.join(["python", f"jobs/{job}", *sys.argv[1:]]))


def print_traceback() -> None:
    """Print the traceback of the exception that is being handled, without secrets."""
    print(without_secrets(traceback.format_exc()), end="", file=sys.stderr, flush=True)


def _literals() -> list[str]:
    """Return the secrets that are known by their text, the longest first."""
    uris = [*sys.argv[1:], *(value for value in os.environ.values() if "://" in value)]
    found = {value for name, value in os.environ.items() if SECRET_NAME.search(name)}
    found |= {secret for uri in uris for secret in _secrets_of(uri)}
    spellings = {one for secret in found for one in (secret, unquote(secret), quote(secret))}
    return sorted((one for one in spellings if len(one) >= LEAST_LITERAL), key=len, reverse=True)


def _secrets_of(uri: str) -> Iterator[str]:
    user, at, _ = uri.partition("://")[2].rpartition("@")
    if at and ":" in user:
        yield user.partition(":")[2]
    for found in QUERY.finditer(uri):
        yield found.group().removeprefix(found["name"])
