"""Policies in a model registry, by URIs such as ``models:/dqar-policy@champion``, and plans and
policies on the Hugging Face Hub, by URIs such as ``hf://me/dit-xl-plan``.

The library reads folders. An installed package that can fetch a registered model offers a function
as the entry point ``models`` of the group :data:`GROUP`; this project's pipeline does.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points
from pathlib import Path

from dqar.hub_files import fetch, is_on_hub

SCHEME = "models:/"
GROUP = "dqar.sources"
"""Group of entry points, named by the scheme of the URIs that they fetch."""


@contextmanager
def local_folder(place: str | Path, tracking_uri: str | None = None) -> Iterator[Path]:
    """Yield the folder of a path, or a folder with the files of a registered model or of a
    repository on the Hub.

    Args:
        place: path; or URI of a registered model: ``models:/NAME@ALIAS``, ``models:/NAME/VERSION``;
            or of a repository on the Hugging Face Hub: ``hf://OWNER/NAME@REVISION``.
        tracking_uri: store of the model; None for that of the environment.

    Raises:
        ValueError: if no installed package fetches such URIs, or there is no such model.
    """
    if not is_registered(place):
        yield Path(place)
        return
    if is_on_hub(place):
        yield fetch(str(place))
        return
    found = list(entry_points(group=GROUP, name="models"))
    if not found:
        raise ValueError(
            f"{place} must be read by an installed package with the entry point {GROUP}. Got none. "
            "Install this project with pip install -e ., or pass a folder."
        )
    with found[0].load()(str(place), tracking_uri) as folder:
        yield folder


def is_registered(place: str | Path) -> bool:
    """Return True for the URI of a registered model or of a repository on the Hub."""
    return str(place).startswith(SCHEME) or is_on_hub(place)
