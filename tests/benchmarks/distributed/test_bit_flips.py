"""A flipped bit in any file of a collection is refused in one line, or changes nothing."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.distributed import bit_flips
from benchmarks.distributed.bit_flips import KINDS, files_of, flip, outcome_of, write_collections


@pytest.fixture(scope="module")
def collections(tmp_path_factory):
    root = tmp_path_factory.mktemp("flips")
    return root, write_collections(root)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=8)
@given(st.data())
def test_no_flipped_bit_is_read_silently(kind, collections, data):
    root, undamaged = collections
    folder = root / KINDS[kind].partition("/")[0]
    path = data.draw(st.sampled_from(files_of(root)[kind]))
    bit = data.draw(st.integers(0, path.stat().st_size * 8 - 1))
    flip(path, bit)
    try:
        assert outcome_of(folder, undamaged) in ("refused", "harmless")
    finally:
        flip(path, bit)


def test_undamaged_collections_are_read(collections):
    root, undamaged = collections
    assert {outcome_of(root / name, undamaged) for name in ("single", "merged")} == {"harmless"}


def test_silent_damage_is_counted(collections, monkeypatch):
    """Readers that return other rows or raise other errors are not counted as refusals."""
    root, undamaged = collections
    for answer, outcome in ((lambda root: None, "silent"), (lambda root: {}["x"], "crashed")):
        monkeypatch.setattr(bit_flips, "readers_of", lambda plan, read=answer: {"gates": read})
        assert outcome_of(root / "single", undamaged) == outcome


def test_the_command_ends_with_its_figures(capsys, tmp_path):
    assert bit_flips.main(["--flips", "8", "--out", str(tmp_path)]) == 0
    assert '"flips": 8' in capsys.readouterr().out
    assert (tmp_path / "bit-flips.json").exists()
