"""The desk hands out every unit until it is done or given up, whatever fails and where."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.cluster.work_queue import WorkItem, WorkQueue


def desk(num_units, max_deaths=3, max_errors=2):
    return WorkQueue(list(range(num_units)), max_deaths=max_deaths, max_errors=max_errors)


@given(st.integers(0, 8), st.lists(st.sampled_from(["done", "died", "raised"]), max_size=60))
def test_each_unit_is_done_or_given_up_once(num_units, fates):
    """Whatever happens, in any order: afterwards all goes well, and no unit is lost or doubled."""
    counter, done, given_up = desk(num_units), [], []
    events = iter(fates)
    while counter.left:
        ticket = counter.take("a", {"a"})
        assert ticket is not None
        fate = next(events, "done")
        if fate == "done":
            counter.finish()
            done.append(ticket.unit)
            continue
        after = ticket.died() if fate == "died" else ticket.failed("a")
        if not counter.give_back(after):
            given_up.append(after)
    assert sorted([*done, *(ticket.unit for ticket in given_up)]) == list(range(num_units))
    assert all(one.deaths == 3 or one.errors == 2 for one in given_up)
    assert counter.take("a", {"a"}) is None


def test_deaths_and_errors_have_limits_of_their_own():
    counter = desk(1, max_deaths=3, max_errors=2)
    ticket = counter.take("a", {"a"})
    assert ticket is not None
    for after in (ticket.died(), ticket.died().died(), ticket.died().died().failed("a")):
        assert counter.give_back(after)
        assert counter.take("a", {"a"}) == after
    assert not counter.give_back(ticket.failed("a").failed("b"))
    assert not counter.give_back(ticket.died().died().died())


def test_what_failed_comes_back_first():
    counter = desk(3)
    ticket = counter.take("a", {"a"})
    assert ticket is not None
    assert counter.give_back(ticket.died())
    assert counter.take("a", {"a"}) == WorkItem(unit=0, deaths=1)


def test_a_unit_that_raised_is_tried_on_another_node():
    counter = desk(2)
    ticket = counter.take("a", {"a", "b"})
    assert ticket is not None
    counter.give_back(ticket.failed("a"))
    assert counter.take("a", {"a", "b"}) == WorkItem(unit=1)
    assert counter.take("a", {"a", "b"}) is None
    again = counter.take("b", {"a", "b"})
    assert again is not None
    assert again.unit == 0


def test_without_another_node_it_is_tried_on_the_same():
    counter = desk(1)
    ticket = counter.take("a", {"a", "b"})
    assert ticket is not None
    counter.give_back(ticket.failed("a"))
    assert counter.take("a", {"a"}) == ticket.failed("a")
