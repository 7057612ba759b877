"""Timesteps in the scales of the pipelines are found on the schedule, rounded as they are."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dqar.integration.schedule_position import SchedulePosition

FLOW = (1000.0, 937.5, 833.3333, 625.0, 250.0)
ANGLES = (1.5708, 1.2, 0.7, 0.2)


def position_of(timesteps: tuple[float, ...], begin_index: Any = None) -> SchedulePosition:
    config = {"num_train_timesteps": 1000}
    return SchedulePosition(
        SimpleNamespace(timesteps=torch.tensor(timesteps), config=config, begin_index=begin_index)
    )


SCALES: dict[str, Any] = {
    "t": lambda t: t,
    "t / N": lambda t: t / 1000,
    "1 - t / N": lambda t: 1 - t / 1000,
    "(N - t) / N": lambda t: (1000 - t) / 1000,
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scale", SCALES)
def test_a_whole_run_is_followed_in_each_scale(scale, dtype):
    position = position_of(FLOW)
    given = [SCALES[scale](torch.tensor(t).to(dtype).expand(2)) for t in FLOW]
    assert [position.advance(t) for t in given] == list(range(5))


def test_angles_are_followed_as_sana_sprint_passes_them():
    position = position_of(ANGLES)
    given = [torch.tensor(t) for t in ANGLES]
    scaled = [torch.sin(t) / (torch.cos(t) + torch.sin(t)) for t in given]
    assert [position.advance(t) for t in scaled] == list(range(4))


@pytest.mark.parametrize("scale", [*SCALES][1:])
def test_a_late_start_is_where_the_scheduler_begins(scale):
    position = position_of(FLOW, begin_index=3)
    assert position.advance(SCALES[scale](torch.tensor(625.0))) == 3
    assert position.advance(SCALES[scale](torch.tensor(250.0))) == 4


def test_a_late_start_that_may_be_two_is_refused():
    timesteps = (1000.0, 750.0, 500.0, 250.0)
    with pytest.raises(ValueError, match=r"may be t / N or 1 - t / N\. Call scheduler\.set_begin"):
        position_of(timesteps).advance(torch.tensor(0.25))
    assert position_of(FLOW).advance(torch.tensor(0.9375)) == 1


def test_a_scaled_timestep_that_skips_is_refused():
    position = position_of(FLOW)
    position.advance(torch.tensor(1.0))
    with pytest.raises(ValueError, match=r"0\.625 where 937\.5 \(passed as t / N\) is next"):
        position.advance(torch.tensor(0.625))


def test_clean_tokens_have_a_smaller_timestep():
    position = position_of((900.0, 600.0))
    tokens = torch.tensor([[0.0, 900.0, 900.0], [900.0, 900.0, 0.0]])
    assert position.advance(tokens) == 0
    with pytest.raises(ValueError, match="same for all rows"):
        position.advance(torch.tensor([[600.0, 0.0], [300.0, 0.0]]))
