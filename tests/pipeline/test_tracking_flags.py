"""Names of experiments."""

import pytest

from pipeline.tracking_flags import TrackingFlags


@pytest.mark.parametrize("name", ["dqar", "other study", "team/study", "ümläut", "a" * 200, "a..b"])
def test_names_are_taken(name):
    assert TrackingFlags(experiment=name).experiment == name


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "a/../b",
        "..",
        ".",
        "/abs/x",
        "\\x",
        "a\\..\\b",
        "",
        " ",
        " x",
        "x\n",
        "a\0b",
        "a" * 201,
    ],
)
def test_paths_blanks_and_long_names_are_refused(name):
    with pytest.raises(ValueError, match=r"^experiment must be a name of 1 to 200"):
        TrackingFlags(experiment=name)
