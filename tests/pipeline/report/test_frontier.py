"""Interpolation between operating points: linear in the log error, without extrapolation."""

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pipeline.report.frontier import error_at, frontier, ratio_at

SAVED = st.floats(0.01, 0.99)
ERROR = st.floats(1e-4, 1.0)
POINTS = st.lists(st.tuples(SAVED, ERROR), min_size=1, max_size=12)


def rows_of(points, method="a"):
    return [
        {"method": method, "reuse_ratio": saved, "flops_ratio": 1 + saved, "latent_rel_l2": error}
        for saved, error in points
    ]


def test_halfway_is_the_geometric_mean():
    rows = rows_of([(0.2, 0.01), (0.4, 0.04)])
    assert error_at(rows, "a", "reuse_ratio", 0.3) == pytest.approx(0.02)
    assert error_at(rows, "a", "flops_ratio", 1.3) == pytest.approx(0.02)


def test_nothing_is_extrapolated():
    rows = rows_of([(0.2, 0.01), (0.4, 0.04)])
    assert error_at(rows, "a", "reuse_ratio", 0.19) is None
    assert error_at(rows, "a", "reuse_ratio", 0.41) is None
    assert error_at(rows, "b", "reuse_ratio", 0.3) is None


def test_a_single_point_answers_for_itself():
    assert error_at(rows_of([(0.5, 0.02)]), "a", "reuse_ratio", 0.5) == pytest.approx(0.02)


@settings(deadline=None, max_examples=50)
@given(POINTS)
def test_frontier_grows_and_is_never_above_its_points(points):
    edge = frontier(rows_of(points), "a", "reuse_ratio")
    saved, errors = zip(*edge, strict=True)
    assert list(saved) == sorted(saved)
    assert list(errors) == sorted(errors)
    assert all(error <= own for (_, error), (_, own) in zip(edge, sorted(points), strict=True))


@settings(deadline=None, max_examples=50)
@given(POINTS, SAVED)
def test_interpolation_stays_between_the_least_and_the_largest_error(points, value):
    rows = rows_of(points)
    found = error_at(rows, "a", "reuse_ratio", value)
    inside = min(points)[0] <= value <= max(points)[0]
    assert (found is not None) == inside
    if found is not None:
        errors = [error for _, error in points]
        assert min(errors) * (1 - 1e-9) <= found <= max(errors) * (1 + 1e-9)


@settings(deadline=None, max_examples=30)
@given(POINTS)
def test_at_a_point_it_is_that_points_error_on_the_frontier(points):
    saved = [value for value, _ in points]
    assume(len(set(saved)) == len(saved))
    rows = rows_of(points)
    for value, error in frontier(rows, "a", "reuse_ratio"):
        assert error_at(rows, "a", "reuse_ratio", value) == pytest.approx(error)


def test_a_ratio_is_of_errors_at_equal_savings():
    rows = rows_of([(0.2, 0.01), (0.6, 0.01)]) + rows_of([(0.1, 0.04), (0.7, 0.04)], "b")
    assert ratio_at(rows, "a", "b", "reuse_ratio", 0.5) == pytest.approx(0.25)
    assert ratio_at(rows, "a", "b", "reuse_ratio", 0.65) is None
    assert ratio_at(rows, "b", "b", "reuse_ratio", 0.5) == pytest.approx(1.0)
