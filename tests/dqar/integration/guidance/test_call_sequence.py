"""Assignment of calls to steps and guidance branches, on made-up calls."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from dqar.integration.guidance.call_sequence import CallSequence
from dqar.integration.guidance.model_call import ModelCall, Seen

COND, UNCOND = torch.zeros(2, 3, 4), torch.ones(2, 3, 4)


def call_of(latent: Tensor, timestep: Any, condition: Tensor = COND, **more: Any) -> ModelCall:
    arguments = {"encoder_hidden_states": condition, "timestep": timestep}
    context = more.pop("context", None)
    return ModelCall(
        latent=latent,
        timestep=timestep,
        arguments=arguments | more,
        context=context,
        seen=(Seen.of(latent),),
    )


def names_of(calls: list[ModelCall], **options: Any) -> list[list[str]]:
    """Names of the branches of each step; a name ends with ``!`` where its conditions changed."""
    sequence = CallSequence(num_samples=2, **options)
    steps: list[list[str]] = []
    for call in calls:
        begins = not sequence.is_repeat(call)
        name, is_changed = sequence.enter(call, begins_step=begins)
        steps += [[]] * begins
        steps[-1] = [*steps[-1], name + "!" * is_changed]
    return steps


def latent(step: int, rows: int = 2) -> Tensor:
    return torch.full((2, 5), float(step)).repeat(rows // 2, 1)


def step_of(step: int, *conditions: Tensor, rows: int = 2, **more: Any) -> list[ModelCall]:
    """Calls of one step: equal latents in separate tensors, and equal timesteps."""
    return [
        call_of(latent(step, rows), torch.full((rows,), 900.0 - step), condition, **more)
        for condition in conditions
    ]


def joined(*steps: list[ModelCall]) -> list[ModelCall]:
    return [call for step in steps for call in step]


def test_calls_of_equal_latent_and_timestep_are_one_step():
    calls = joined(*(step_of(step, COND, UNCOND) for step in range(3)))
    assert names_of(calls) == [["stacked", "call 2"]] * 3


def test_a_scheduler_that_repeats_a_timestep_calls_with_another_latent():
    """Heun's second call of a timestep has the latent that its first call led to."""
    calls = [call_of(latent(step), torch.tensor([time])) for step, time in enumerate((9, 6, 6, 3))]
    assert names_of(calls) == [["stacked"]] * 4


def test_a_latent_written_between_two_calls_is_another():
    shared = latent(0)
    first = call_of(shared, torch.tensor([9.0]))
    shared.add_(1.0)
    assert names_of([first, call_of(shared, torch.tensor([9.0]))]) == [["stacked"]] * 2


def test_a_view_of_the_same_rows_is_the_same_latent():
    shared = latent(0)
    first, second = (call_of(shared[:], torch.tensor([9.0]), one) for one in (COND, UNCOND))
    assert second.has_the_latent_of(first)
    assert names_of([first, second]) == [["stacked", "call 2"]]


@pytest.mark.parametrize("order", [(COND, UNCOND), (UNCOND, COND)], ids=["cond first", "uncond"])
def test_a_branch_that_is_left_out_is_not_taken_for_the_other(order):
    """Guidance that is cut off leaves the conditional branch, whichever was called first."""
    steps = [*(step_of(step, *order) for step in range(3)), step_of(3, COND), step_of(4, COND)]
    *_, last, _ = names_of(joined(*steps))
    both = names_of(joined(*steps))[0]
    assert last == [both[[one is COND for one in order].index(True)]]


@pytest.mark.parametrize("order", [(COND, UNCOND), (UNCOND, COND)], ids=["cond first", "uncond"])
def test_a_branch_that_is_added_late_computes_everything(order):
    steps = [*(step_of(step, COND) for step in range(4)), *(step_of(s, *order) for s in (4, 5, 6))]
    names = names_of(joined(*steps))
    assert names[:4] == [["stacked"]] * 4
    if order[0] is COND:
        assert names[4:] == [["stacked", "call 2"]] * 3
    else:
        assert names[4:] == [["stacked!", "call 2"], ["stacked", "call 2"], ["stacked", "call 2"]]


def test_conditions_that_change_at_each_step_are_never_read_from_the_cache():
    steps = [step_of(step, torch.full((2, 3, 4), float(step))) for step in range(6)]
    names = names_of(joined(*steps))
    assert names[:2] == [["stacked"], ["call 2"]]
    assert all(name.endswith("!") for (name,) in names[2:])


def test_equal_conditions_of_two_branches_keep_their_order():
    assert (
        names_of(joined(*(step_of(s, COND, COND.clone()) for s in range(3))))
        == [["stacked", "call 2"]] * 3
    )


def test_other_rows_or_settings_are_another_branch():
    """Skip-layer guidance: a further call of half the rows, with layers left out."""
    stacked = [call_of(latent(step, 4), torch.tensor([900.0 - step])) for step in range(4)]
    skipping = [
        call_of(latent(step), torch.tensor([900.0 - step]), skip_layers=[1]) for step in range(4)
    ]
    order = [stacked[0], stacked[1], skipping[1], stacked[2], skipping[2], stacked[3]]
    assert names_of(order) == [
        ["stacked"],
        ["stacked", "call 2"],
        ["stacked", "call 2"],
        ["stacked"],
    ]


def test_names_of_the_pipeline_are_the_branches():
    def step(at: int, *names: str) -> list[ModelCall]:
        return [step_of(at, torch.rand(2, 3, 4), context=name)[0] for name in names]

    calls = joined(step(0, "cond", "uncond"), step(1, "cond", "uncond"), step(2, "uncond"))
    assert names_of(calls) == [["cond", "uncond"], ["cond", "uncond"], ["uncond"]]
    assert names_of(calls, trusts_names=False)[1] != ["cond", "uncond"]


def test_a_name_of_several_branches_leaves_them_to_their_conditions():
    steps = [*(step_of(s, UNCOND, COND, context="both") for s in range(3))]
    names = names_of(joined(*steps, step_of(3, COND, context="both")))
    assert names[0] == ["both", "both 2"]
    assert names[-1] == ["both 2"]


class OnDevice(torch.Tensor):
    """A tensor of the host that says to be on a GPU, and counts how often its value is read."""

    is_cuda = True  # pyright: ignore[reportAssignmentType] a tensor's own is computed
    reads = 0

    def max(self):  # pyright: ignore[reportIncompatibleMethodOverride]
        OnDevice.reads += 1
        return self.as_subclass(torch.Tensor).max()


def reads_of(calls: list[ModelCall]) -> tuple[list[list[str]], int]:
    OnDevice.reads = 0
    return names_of(calls), OnDevice.reads


def on_device(step: int) -> Tensor:
    return torch.full((2,), 900.0 - step).as_subclass(OnDevice)


def test_a_timestep_on_the_device_is_read_in_the_first_steps_alone():
    stacked = [call_of(latent(step), on_device(step)) for step in range(9)]
    assert reads_of(stacked) == ([["stacked"]] * 9, 2)
    apart = []
    for step in range(9):
        shared = latent(step)
        apart += [call_of(shared, on_device(step), one) for one in (COND, UNCOND)]
    assert reads_of(apart) == ([["stacked", "call 2"]] * 9, 2)


def test_calls_with_tensors_of_their_own_are_compared_at_each_step():
    calls = []
    for step in range(5):
        calls += [call_of(latent(step), on_device(step), one) for one in (COND, UNCOND)]
    names, reads = reads_of(calls)
    assert names == [["stacked", "call 2"]] * 5
    assert reads > 10
