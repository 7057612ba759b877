"""Readers of arbitrarily damaged plans, receipts and manifests refuse, or return what was
committed.

They raise no other exception, and read and write no byte outside the folder.
"""

import contextlib
import copy
import json
import shutil

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.errors import InputError
from pipeline.storage.json_schema import Malformed, parse
from pipeline.storage.object_store import open_storage
from pipeline.traces import read_gates, read_trajectories
from pipeline.traces.commit import claim_output, committed_receipts, write_manifest
from pipeline.traces.compaction import orphans
from pipeline.traces.dataset import open_dataset
from pipeline.traces.multi_dataset import open_traces
from pipeline.tracking import LINEAGE, read_lineage
from tests.pipeline.little_traces import FACTS, PLAN, commit_all

HOSTILE = [
    "../../etc/x",
    "../outside.parquet",
    "/etc/passwd",
    "a\0b",
    "",
    ".",
    "..",
    "\ud800",
    "x" * 5000,
    -1,
    0,
    True,
    None,
    1e308,
    10**30,
    2**63,
    [],
    {},
    [[[]]],
    {"name": "../x"},
]
SHARDS_NAME = r"parts\[0\]\.files\.gates\.name must be a shard's name|must be Unicode text"
ANYTHING = st.sampled_from(HOSTILE) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Folder of a dataset that no test changes, and the dataset's two tables."""
    root = tmp_path_factory.mktemp("finished") / "traces"
    claim_output(root, PLAN)
    write_manifest(root, PLAN, commit_all(root), FACTS)
    return root, read_trajectories(root), read_gates(root)


@pytest.fixture(scope="module")
def copied(finished, tmp_path_factory):
    """Return a context manager that copies the dataset beside a file that must not change."""
    base = tmp_path_factory.mktemp("copies")

    @contextlib.contextmanager
    def copy_it():
        shutil.rmtree(base)
        base.mkdir()
        (base / "outside.parquet").write_bytes(b"mine")
        shutil.copytree(finished[0], base / "traces")
        yield base / "traces"
        assert sorted(path.name for path in base.iterdir()) == ["outside.parquet", "traces"]
        assert (base / "outside.parquet").read_bytes() == b"mine"

    return copy_it


def paths_of(document, path=()):
    """Yield the path of every value in a document."""
    yield path
    if isinstance(document, dict | list):
        items = document.items() if isinstance(document, dict) else enumerate(document)
        for key, value in items:
            yield from paths_of(value, (*path, key))


def changed(document, path, value):
    if not path:
        return value
    document = copy.deepcopy(document)
    owner = document
    for key in path[:-1]:
        owner = owner[key]
    owner[path[-1]] = value
    return document


def place_of(root, kind):
    folder = {"plan": ".", "manifest": "_manifest", "receipt": "_receipts"}[kind]
    return min((root / folder).glob("*.json"))


def read_everything(root, finished):
    """Read as a reader and as a resuming driver; assert that each refuses or finds what was
    committed."""
    with contextlib.suppress(InputError):
        claim_output(root, PLAN)
    with contextlib.suppress(InputError):
        traces = open_dataset(root)
        assert read_trajectories(root).equals(finished[1])
        assert read_gates(root).equals(finished[2])
        assert orphans(traces.storage, traces.manifest) == []
    with contextlib.suppress(InputError):
        receipts = committed_receipts(root, PLAN)
        assert set(receipts) <= {unit.unit_id for unit in PLAN.units()}


@pytest.mark.parametrize("kind", ["plan", "manifest", "receipt"])
@given(st.data())
def test_one_field_is_anything(kind, finished, copied, data):
    with copied() as root:
        place = place_of(root, kind)
        document = json.loads(place.read_text())
        path = data.draw(st.sampled_from(list(paths_of(document))))
        place.write_text(json.dumps(changed(document, path, data.draw(ANYTHING))))
        read_everything(root, finished)


@pytest.mark.parametrize("kind", ["plan", "manifest", "receipt"])
@given(st.data())
def test_one_field_is_missing(kind, finished, copied, data):
    with copied() as root:
        place = place_of(root, kind)
        document = json.loads(place.read_text())
        paths = [path for path in paths_of(document) if path and isinstance(path[-1], str)]
        path = data.draw(st.sampled_from(paths))
        owner = document
        for key in path[:-1]:
            owner = owner[key]
        del owner[path[-1]]
        place.write_text(json.dumps(document))
        read_everything(root, finished)


@pytest.mark.parametrize("kind", ["plan", "manifest", "receipt"])
@given(st.data())
def test_a_document_is_cut_short_or_filled_with_bytes(kind, finished, copied, data):
    with copied() as root:
        place = place_of(root, kind)
        whole = place.read_bytes()
        at = data.draw(st.integers(0, len(whole) - 1))
        place.write_bytes(whole[:at] + data.draw(st.binary(max_size=9)))
        read_everything(root, finished)


@pytest.mark.parametrize("kind", ["plan", "manifest", "receipt"])
@given(st.randoms())
def test_the_order_of_keys_means_nothing(kind, finished, copied, shuffle):
    def reordered(value):
        if isinstance(value, dict):
            items = [(key, reordered(inner)) for key, inner in value.items()]
            shuffle.shuffle(items)
            return dict(items)
        return [reordered(inner) for inner in value] if isinstance(value, list) else value

    with copied() as root:
        place = place_of(root, kind)
        place.write_text(json.dumps(reordered(json.loads(place.read_text()))))
        claim_output(root, PLAN)
        assert read_gates(root).equals(finished[2])
        assert len(committed_receipts(root, PLAN)) == 2


@pytest.mark.parametrize("name", [value for value in HOSTILE if isinstance(value, str)])
def test_a_hostile_name_is_refused(name, finished, copied):
    with copied() as root:
        place = place_of(root, "manifest")
        manifest = json.loads(place.read_text())
        manifest["parts"][0]["files"]["gates"]["name"] = name
        place.write_text(json.dumps(manifest))
        with pytest.raises(InputError, match=SHARDS_NAME):
            open_traces(root)
        with pytest.raises(InputError, match=SHARDS_NAME):
            committed_receipts(root, PLAN)
    with copied() as root:
        place = place_of(root, "receipt")
        receipt = json.loads(place.read_text())
        receipt["files"]["gates"]["name"] = name
        place.write_text(json.dumps(receipt))
        assert len(committed_receipts(root, PLAN)) == 1
        assert read_gates(root).equals(finished[2])


@given(st.data())
def test_a_damaged_byte_of_a_shard_is_noticed(finished, copied, data):
    """A damaged byte leaves the size as it was, but breaks a page's checksum."""
    with copied() as root:
        shard = min((root / "gates").glob("*.parquet"))
        whole = bytearray(shard.read_bytes())
        end = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
        whole[data.draw(st.integers(4, end - 1))] ^= data.draw(st.integers(1, 255))
        shard.write_bytes(whole)
        with contextlib.suppress(InputError):
            assert read_gates(root).equals(finished[2])


def test_a_receipt_of_another_unit_is_none(copied):
    with copied() as root:
        one, other = sorted((root / "_receipts").glob("*.json"))
        one.write_bytes(other.read_bytes())
        assert list(committed_receipts(root, PLAN)) == [other.stem]


@given(st.binary(max_size=40))
@example(b"[" * 200_000)
@example(b'{"a":' * 200_000)
@example(b'{"a": NaN}')
@example(b'{"a": ' + b"9" * 5000 + b"}")
@example(b"\xef\xbb\xbf{}")
def test_bytes_are_an_object_or_malformed(data):
    with contextlib.suppress(Malformed):
        assert isinstance(parse(data), dict)


@given(ANYTHING)
def test_lineage_is_text_by_text(tmp_path_factory, value):
    storage = open_storage(tmp_path_factory.mktemp("lineage"))
    storage.write(LINEAGE, json.dumps({"parent": value}).encode())
    found = read_lineage(storage)
    assert found == ({"parent": value} if isinstance(value, str) else {})
