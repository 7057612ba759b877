"""Fixtures: a folder of each family, and reference runs made once a session."""

from __future__ import annotations

from typing import Any

import pytest
from torch import Tensor

from tests.conformance import sampling
from tests.conformance.pipelines import CASES
from tests.conformance.pipelines.case import Case
from tests.conformance.replay import every_second

WARNINGS = (
    # diffusers' schedulers convert lists of tensors by numpy
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning",
    # diffusers' Mochi asks for an autocast in float32
    "ignore:In CPU autocast, but the target dtype is not supported:UserWarning",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for warning in WARNINGS:
            item.add_marker(pytest.mark.filterwarnings(warning))


class References:
    """Folders, and runs of stock pipelines and of the independent replay, each made once."""

    def __init__(self, root: Any) -> None:
        self.root = root
        self.runs: dict[Any, Any] = {}

    def folder(self, case: Case) -> Any:
        folder = self.root / case.name
        return folder if folder.exists() else sampling.save(case, folder)

    def pipe(self, case: Case, **changes: Any) -> Any:
        return sampling.load(case, self.folder(case), **changes)

    def stock(self, case: Case, **options: Any) -> Tensor:
        key = (case.name, *sorted(map(repr, options.items())))
        if key not in self.runs:
            self.runs[key] = sampling.sample(self.pipe(case), case, **options)
        return self.runs[key]

    def replay(self, case: Case, sites: tuple[str, ...], computes: Any = every_second, **options):
        key = (case.name, sites, computes, *sorted(map(repr, options.items())))
        if key not in self.runs:
            self.runs[key], _ = sampling.replay(self.pipe(case), case, sites, computes, **options)
        return self.runs[key]


@pytest.fixture(scope="session")
def references(tmp_path_factory) -> References:
    return References(tmp_path_factory.mktemp("families"))


@pytest.fixture(params=CASES.values(), ids=CASES)
def case(request) -> Case:
    return request.param


@pytest.fixture
def pipe(references, case) -> Any:
    """A stock pipeline, loaded for this test alone."""
    return references.pipe(case)
