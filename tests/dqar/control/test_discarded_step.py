"""A step that is discarded, as after an exception, leaves no record."""

from __future__ import annotations

import pytest

from dqar.control.controller import DQARController
from dqar.gates.rules import NeverReuse
from dqar.records import GateRecord
from tests.dqar.by_hand import controller_of, output_at


@pytest.mark.parametrize("discard", [DQARController.drop_step, DQARController.begin_run])
def test_discarded_step_reaches_neither_state_nor_sink(discard):
    """After a discarded step 1, step 2 finds the entry of step 0 and its age."""
    records: list[GateRecord] = []
    controller = controller_of(NeverReuse(), sink=records.append)
    for step in (0, 1):
        controller.begin_step(step, 3)
        controller.commit(0, output=output_at(step))
    discard(controller)
    assert [record.inputs.step.index for record in records] == [0]
    if discard is DQARController.drop_step:
        controller.begin_step(2, 3)
        controller.finish_step()
        assert records[1].inputs.gap.item() == 2
        assert controller.summary().gates == 2
