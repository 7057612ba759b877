"""Work queue: each unit is handed out until it is done or given up, whatever fails and where."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.cluster.work_queue import WorkItem, WorkQueue


def queue(num_units, max_deaths=3, max_errors=2):
    return WorkQueue(list(range(num_units)), max_deaths=max_deaths, max_errors=max_errors)


@given(st.integers(0, 8), st.lists(st.sampled_from(["done", "died", "raised"]), max_size=60))
def test_each_unit_is_done_or_given_up_once(num_units, fates):
    """After any sequence of failures, followed by successes, no unit is lost or done twice."""
    counter, done, given_up = queue(num_units), [], []
    events = iter(fates)
    while counter.left:
        item = counter.take("a", {"a"})
        assert item is not None
        fate = next(events, "done")
        if fate == "done":
            counter.finish()
            done.append(item.unit)
            continue
        after = item.died() if fate == "died" else item.failed("a")
        if not counter.give_back(after):
            given_up.append(after)
    assert sorted([*done, *(item.unit for item in given_up)]) == list(range(num_units))
    assert all(one.deaths == 3 or one.errors == 2 for one in given_up)
    assert counter.take("a", {"a"}) is None


def test_deaths_and_errors_have_limits_of_their_own():
    counter = queue(1, max_deaths=3, max_errors=2)
    item = counter.take("a", {"a"})
    assert item is not None
    for after in (item.died(), item.died().died(), item.died().died().failed("a")):
        assert counter.give_back(after)
        assert counter.take("a", {"a"}) == after
    assert not counter.give_back(item.failed("a").failed("b"))
    assert not counter.give_back(item.died().died().died())


def test_what_failed_comes_back_first():
    counter = queue(3)
    item = counter.take("a", {"a"})
    assert item is not None
    assert counter.give_back(item.died())
    assert counter.take("a", {"a"}) == WorkItem(unit=0, deaths=1)


def test_a_unit_that_raised_is_tried_on_another_node():
    counter = queue(2)
    item = counter.take("a", {"a", "b"})
    assert item is not None
    counter.give_back(item.failed("a"))
    assert counter.take("a", {"a", "b"}) == WorkItem(unit=1)
    assert counter.take("a", {"a", "b"}) is None
    again = counter.take("b", {"a", "b"})
    assert again is not None
    assert again.unit == 0


def test_without_another_node_it_is_tried_on_the_same():
    counter = queue(1)
    item = counter.take("a", {"a", "b"})
    assert item is not None
    counter.give_back(item.failed("a"))
    assert counter.take("a", {"a"}) == item.failed("a")
