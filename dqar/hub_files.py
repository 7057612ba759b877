"""Files of repositories on the Hugging Face Hub, by URIs such as ``hf://me/dit-xl-plan@main``.

Only files of the names in :data:`FILES` are fetched, and none that is larger than
:data:`MAX_BYTES`. huggingface_hub is imported here alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

SCHEME = "hf://"
NAMED = re.compile(r"(?:hf://)?(?P<name>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w.-][\w./-]*))?")
FILES = ("reuse_plan.json", "policy.json", "policy.safetensors", "README.md")
"""Files of a plan's or a policy's repository."""
MAX_BYTES = 64 * 2**20
"""Largest size in bytes of a file that is fetched."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HubAccess:
    """Access to the Hub; the default is that of the environment (``HF_TOKEN``, ``HF_HOME``,
    ``HF_ENDPOINT``, ``HF_HUB_OFFLINE``)."""

    token: str | bool | None = None
    """Token of an account; False for none."""
    endpoint: str | None = None
    """URL of another Hub, such as a mirror."""
    cache_dir: str | Path | None = None
    """Folder of the files that were fetched before."""
    local_files_only: bool = False
    """Take the files that were fetched before, and ask no server."""


def is_on_hub(place: str | Path) -> bool:
    """Return True for the URI of a repository on the Hub."""
    return str(place).startswith(SCHEME)


def fetch(place: str, access: HubAccess | None = None) -> Path:
    """Return the folder of a repository's files on this machine, fetched where they are new.

    Args:
        place: ``hf://OWNER/NAME``, with ``@REVISION`` for a branch, a tag or a commit.
        access: account and server; those of the environment by default.

    Raises:
        ValueError: one line, if there is no such repository, or a file of it is too large.
    """
    access = access or HubAccess()
    if (named := NAMED.fullmatch(place)) is None:
        raise ValueError(
            "A repository must be hf://OWNER/NAME or hf://OWNER/NAME@REVISION. Got "
            f"{place!r:.100}. Correct the name."
        )
    name, revision = named["name"], named["revision"]
    try:
        return _fetched(name, revision, access)
    # The Hub's client raises what its own libraries raise.
    except Exception as error:
        raise ValueError(
            f"{place} must be a repository on the Hugging Face Hub with a plan or a policy. Got: "
            f"{_reason_of(error)}. Check the name, the revision, the token and the network."
        ) from None


def _fetched(name: str, revision: str | None, access: HubAccess) -> Path:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    if access.local_files_only:
        return _downloaded(name, revision, access)
    try:
        api = HfApi(endpoint=access.endpoint, token=access.token)
        about = api.model_info(name, revision=revision, files_metadata=True)
    except HfHubHTTPError:
        raise
    except Exception as error:  # no network, or HF_HUB_OFFLINE
        try:
            return _downloaded(name, revision, replace(access, local_files_only=True))
        except Exception:
            raise error from None
    _refuse_odd_files(about.siblings or ())
    # By the branch's name, so that the files are found again without a network.
    folder = _downloaded(name, revision, access)
    if folder.name != about.sha:
        raise ValueError("a commit while its files were fetched; fetch again")
    return folder


def _downloaded(name: str, revision: str | None, access: HubAccess) -> Path:
    from huggingface_hub import snapshot_download

    folder = snapshot_download(
        name,
        revision=revision,
        allow_patterns=list(FILES),
        token=access.token,
        endpoint=access.endpoint,
        cache_dir=access.cache_dir,
        local_files_only=access.local_files_only,
    )
    return Path(folder)


def _refuse_odd_files(files: Any) -> None:
    sizes = {one.rfilename: one.size or 0 for one in files if one.rfilename in FILES}
    if not sizes.keys() & {"reuse_plan.json", "policy.json"}:
        raise ValueError("a repository without reuse_plan.json and without policy.json")
    for file, size in sizes.items():
        if size > MAX_BYTES:
            raise ValueError(f"{file} of {size} bytes, more than {MAX_BYTES}")


def upload(
    folder: Path,
    name: str,
    *,
    access: HubAccess | None = None,
    private: bool | None = None,
    revision: str | None = None,
    message: str,
) -> str:
    """Upload a folder's files as one commit; return the commit's URL.

    The repository is created if it is missing.

    Raises:
        ValueError: one line, if the Hub does not take the files.
    """
    from huggingface_hub import HfApi

    access = access or HubAccess()
    try:
        api = HfApi(endpoint=access.endpoint, token=access.token)
        api.create_repo(name, private=private, exist_ok=True)
        done = api.upload_folder(
            repo_id=name,
            folder_path=folder,
            allow_patterns=list(FILES),
            revision=revision,
            commit_message=message,
        )
    except Exception as error:
        raise ValueError(
            f"{name} must be a repository that takes your files. Got: {_reason_of(error)}. Log in "
            "with `hf auth login`, or pass a token that may write there."
        ) from None
    return str(done.commit_url)


def _reason_of(error: Exception) -> str:
    """Return an error as one short line, without the name and password of a URL in it."""
    text = " ".join(str(error).split()) or type(error).__name__
    return re.sub(r"(?<=://)[^/@\s]*@", "", text)[:300].rstrip(".")
