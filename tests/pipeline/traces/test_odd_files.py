"""Files of a traces folder that are no regular files are refused in one line, at once."""

import re

import pytest

from pipeline.errors import InputError
from pipeline.storage.object_store import open_storage
from pipeline.traces import read_gates
from pipeline.traces.commit import claim_output, committed_receipts, write_manifest
from pipeline.traces.dataset import open_dataset
from pipeline.traces.manifest import newest_manifest, publish_manifest
from tests.odd_files import LARGE, ODD_FILES
from tests.pipeline.little_traces import FACTS, PLAN, commit_all

FOLDERS = ("_receipts", "gates", "_manifest")

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "traces"
    claim_output(root, PLAN)
    write_manifest(root, PLAN, commit_all(root), FACTS)
    return root


def refused_by(act, *arguments):
    with pytest.raises(InputError) as refused:
        act(*arguments)
    assert re.fullmatch(r"[^\n]+\.", str(refused.value))
    assert "elete" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize("make", [*ODD_FILES.values(), *LARGE.values()], ids=[*ODD_FILES, *LARGE])
def test_what_is_no_file_is_refused(root, make):
    plan, receipt = root / "plan.json", min((root / "_receipts").iterdir())
    shard, manifest = min((root / "gates").iterdir()), root / "_manifest" / "v000001.json"
    readers = {
        plan: (claim_output, root, PLAN),
        receipt: (committed_receipts, root, PLAN),
        manifest: (newest_manifest, open_storage(root)),
        shard: (read_gates, root),
    }
    for path, (act, *arguments) in readers.items():
        whole = path.rename(path.with_name("_whole"))
        make(path)
        assert str(path) in refused_by(act, *arguments)
        path.rename(path.with_name("_aside"))
        whole.rename(path)
        if (aside := path.with_name("_aside")).is_dir():
            aside.rmdir()
        else:
            aside.unlink()
    assert read_gates(root).num_rows


@pytest.mark.parametrize("number", [10**12, 2**63 - 1, 10**200])
def test_a_version_that_no_driver_published_is_refused(root, number):
    storage = open_storage(root)
    manifest = newest_manifest(storage)
    storage.write(f"_manifest/v{number:06d}.json", b"{}")
    for act, *arguments in ((open_dataset, root), (publish_manifest, storage, manifest)):
        assert "must hold versions below 10^12. Got v" in refused_by(act, *arguments)
