"""Versions of a manifest: the newest by number counts, and the next one follows it."""

import json

import pytest

from pipeline.storage.object_store import open_storage
from pipeline.traces.commit import write_manifest
from pipeline.traces.document_digest import with_digest
from pipeline.traces.manifest import newest_manifest
from tests.pipeline.little_traces import FACTS, PLAN, commit_all


@pytest.fixture
def storage(place):
    return open_storage(place)


def leave(storage, manifest, version):
    """Write a version whose number of layers is the version, as a driver would have left it."""
    document = with_digest(manifest | {"num_layers": version})
    storage.write(f"_manifest/v{version:06d}.json", json.dumps(document).encode())


@pytest.mark.parametrize(("older", "newer"), [(9, 10), (999_999, 1_000_000)])
def test_the_newest_version_is_the_largest_number(storage, older, newer):
    """In the order of text, v1000000 comes before v999999."""
    receipts = commit_all(storage)
    manifest = write_manifest(storage, PLAN, receipts, FACTS)
    for version in (newer, older):
        leave(storage, manifest, version)
    assert (newest_manifest(storage) or {})["num_layers"] == newer
    published = write_manifest(storage, PLAN, receipts, FACTS | {"num_layers": 1})
    assert f"v{newer + 1:06d}.json" in storage.sizes("_manifest")
    assert newest_manifest(storage) == published
