"""Values of flags: what the help shows is read back as the same value; blank texts are refused."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.flags.values import as_text, kind_of

finite = st.floats(allow_nan=False, allow_infinity=False)


def read_back(annotation, value):
    kind = kind_of(annotation)
    assert kind is not None
    return kind.parse(as_text(value))


@given(finite)
def test_a_shown_number_is_read_back(value):
    assert read_back(float, value) == value


@given(st.lists(st.integers(), min_size=1).map(tuple))
def test_shown_whole_numbers_are_read_back(values):
    assert read_back(tuple[int, ...], values) == values


def test_shares_are_shown_as_fractions():
    shares = (1 / 3, 0.5, 2 / 3, 0.75, 1.0)
    assert as_text(shares) == "1/3,0.5,2/3,0.75,1"
    assert read_back(tuple[float, ...], shares) == shares


@pytest.mark.parametrize("annotation", [str, Path, str | None])
@pytest.mark.parametrize("text", ["", " ", "\n"])
def test_a_blank_text_or_path_is_refused(annotation, text):
    kind = kind_of(annotation)
    assert kind is not None
    with pytest.raises(ValueError, match=r"that is not empty\. Got "):
        kind.parse(text)
