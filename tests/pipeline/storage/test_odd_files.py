"""What has the name of a document and is no file of its size is refused in one line, at once."""

import re
from functools import partial

import pytest

from pipeline.errors import StorageError
from pipeline.storage.local_folder import LocalFolder
from tests.odd_files import LARGE, ODD_FILES

pytestmark = pytest.mark.timeout(60)


def said_by(act):
    with pytest.raises(StorageError) as refused:
        act()
    assert re.fullmatch(r"[^\n]+\.", str(refused.value))
    assert "elete" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize("make", ODD_FILES.values(), ids=ODD_FILES)
def test_what_is_no_file_is_refused_by_every_reader(tmp_path, make):
    make(tmp_path / "plan.json")
    storage = LocalFolder(path=tmp_path)
    for read in (storage.read, storage.open, storage.size, storage.sha256):
        assert "plan.json must be a regular file. Got a" in said_by(partial(read, "plan.json"))


def test_a_document_has_a_largest_size(tmp_path):
    LARGE["60 MB of text"](tmp_path / "plan.json")
    storage = LocalFolder(path=tmp_path)
    assert "a file of more than 16777216 bytes" in said_by(lambda: storage.read("plan.json"))
    assert len(storage.read("plan.json", 60 << 20) or b"") == 60 << 20


def test_an_object_has_a_largest_size_too(s3):
    from pipeline.storage.object_store import open_storage

    storage = open_storage(f"{s3}/x")
    storage.write("plan.json", bytes(100))
    assert "at most 99 bytes" in said_by(lambda: storage.read("plan.json", 99))
    assert storage.read("plan.json", 100) == bytes(100)


def test_names_are_listed_whatever_they_are(tmp_path):
    for kind, make in ODD_FILES.items():
        make(tmp_path / kind.replace("/", ""))
    storage = LocalFolder(path=tmp_path.parent)
    assert len(storage.names(tmp_path.name)) == len(ODD_FILES)
    assert storage.sizes(tmp_path.name) == {}
    assert storage.names("nowhere") == []
