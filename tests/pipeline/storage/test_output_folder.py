"""Output folders on disk and in an object store: complete or absent, and never other files'."""

import json
from functools import partial
from pathlib import Path

import pytest

from pipeline.errors import IncompleteError, InputError, StorageError
from pipeline.storage.local_folder import LocalFolder
from pipeline.storage.object_store import open_storage
from pipeline.storage.output_checks import refuse_other_files, refuse_unwritable
from pipeline.storage.output_folder import (
    POLICY_FILES,
    UPLOADING,
    fetched,
    fetched_policies,
    published,
    refuse_taken,
)


def write(folder, **texts):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)


def test_what_is_published_is_fetched(place):
    with published(place, "policy.json") as folder:
        write(folder, **{"policy.json": "{}", "policy.safetensors": "w", "plans__a.json": "p"})
    storage = open_storage(place)
    assert storage.read("plans/a.json") == b"p"
    with fetched(place, POLICY_FILES) as found:
        found = LocalFolder(path=Path(found))
        assert [found.read(name) for name in POLICY_FILES] == [b"{}", b"w"]


def fail_in(place):
    with published(place, "policy.json") as folder:
        write(folder, **{"policy.json": "{}"})
        raise KeyError


def test_what_fails_is_not_published(s3):
    with pytest.raises(KeyError):
        fail_in(f"{s3}/out")
    assert open_storage(f"{s3}/out").is_empty()


def test_the_mark_of_a_complete_folder_goes_last_and_comes_off_first(s3, monkeypatch):
    storage = open_storage(f"{s3}/out")
    storage.write("a.json", b"old")
    acts = []
    for verb in ("write", "delete"):
        real = getattr(type(storage), verb)

        def noted(self, key, *rest, _real=real, _verb=verb):
            acts.append((_verb, key))
            return _real(self, key, *rest)

        monkeypatch.setattr(type(storage), verb, noted)
    with published(f"{s3}/out", "a.json") as folder:
        write(folder, **{"a.json": "new", "b__c.json": "1", "z.json": "2"})
    assert acts[:2] == [("write", UPLOADING), ("delete", "a.json")]
    assert acts[-2:] == [("write", "a.json"), ("delete", UPLOADING)]
    assert len(acts) == 6


def test_what_was_cut_off_is_taken_up_and_its_place_not_refused(s3, monkeypatch):
    """The upload fails after the old completion mark is deleted; the same command then resumes
    from the scratch folder."""
    place = f"{s3}/out"
    storage = open_storage(place)
    storage.write("policy.json", b"old")
    real = type(storage).write

    def breaks(self, key, data):
        if key == "policy.safetensors":
            raise StorageError("The bucket must answer. Got 503. Try again.")
        real(self, key, data)

    with monkeypatch.context() as patch:
        patch.setattr(type(storage), "write", breaks)
        with pytest.raises(IncompleteError), published(place, "policy.json") as folder:
            write(folder, **{"policy.json": "{}", "policy.safetensors": "w"})
    assert storage.read("policy.json") is None
    refuse_taken(place, "policy.json")
    with published(place, "policy.json") as folder:
        assert (folder / "policy.safetensors").read_text() == "w"
    assert storage.read("policy.json") == b"{}"
    assert storage.size(UPLOADING) is None
    assert not folder.exists()


def test_a_place_is_new_or_ours(place):
    refuse_taken(place, "policy.json")
    storage = open_storage(place)
    storage.write("thesis.txt", b"mine")
    with pytest.raises(InputError, match=r"must be a new folder or hold policy\.json"):
        refuse_taken(place, "policy.json")
    storage.write("policy.json", b"{}")
    refuse_taken(place, "policy.json")
    assert storage.read("thesis.txt") == b"mine"


def test_what_is_refused_is_said_of_the_uri(s3):
    open_storage(f"{s3}/policy").write("policy.json", b"{}")
    with (
        pytest.raises(InputError, match=rf"^Got {s3}/policy/policy\.json\.$"),
        fetched(f"{s3}/policy", POLICY_FILES) as folder,
    ):
        raise InputError(f"Got {folder}/policy.json.")


def test_policies_by_name_and_by_place(s3, tmp_path):
    for name in ("one", "two"):
        open_storage(f"{s3}/{name}").write("policy.json", json.dumps({"name": name}).encode())
    flags = [f"{s3}/one", f"two={s3}/two", f"here={tmp_path}"]
    with fetched_policies(flags) as found:
        names, folders = zip(*(flag.rpartition("=")[::2] for flag in found), strict=True)
        assert names == ("", "two", "here")
        texts = [open_storage(folder).read("policy.json") for folder in folders]
    assert texts == [b'{"name": "one"}', b'{"name": "two"}', None]
    assert not any(Path(folder).exists() for folder in folders[:2])


@pytest.mark.parametrize("name", ["x" * 256, "x" * 5000, "a/" * 3000])
def test_a_path_that_no_file_system_has_is_refused(tmp_path, name):
    for check in (refuse_unwritable, partial(refuse_other_files, ours="policy.json")):
        with pytest.raises(InputError, match=r"^--out must "):
            check(str(tmp_path / name))
