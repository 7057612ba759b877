"""One sampling run after another, and runs that go wrong."""

from __future__ import annotations

import pytest
import torch

from dqar.controller import DQARController
from dqar.gates import AllOf, Closed, Interval


def test_second_run_does_not_see_the_first(rig):
    wrapper = rig.wrap(rig.config(), Interval(2))
    assert torch.equal(rig.sample(wrapper), rig.sample(wrapper))


def test_another_controller_may_sit_in(rig):
    stock = rig.sample()
    wrapper = rig.wrap(rig.config(), AllOf())
    guest = DQARController(rig.config(), gate=Closed())
    assert torch.equal(rig.sample(wrapper, controller=guest), stock)
    assert guest.summary().gates == rig.steps * 2 * rig.layers * rig.samples


def test_run_within_a_run_leaves_it_as_it_was(rig):
    wrapper = rig.wrap(rig.config(), Interval(2))
    alone = rig.sample(wrapper)
    guest = DQARController(rig.config(), gate=Closed())
    scheduler, inner = rig.scheduler, []

    def sample_another(done: int) -> None:
        if done == 3:
            rig.scheduler = type(scheduler).from_config(scheduler.config)
            inner.append(rig.sample(wrapper, controller=guest))

    assert torch.equal(rig.sample(wrapper, on_step=sample_another), alone)
    assert torch.equal(inner[0], rig.sample())


def test_controller_serves_one_run_at_a_time(rig):
    wrapper = rig.wrap(rig.config(), Interval(2))
    alone = rig.sample(wrapper)
    with (
        wrapper.run(rig.scheduler, num_branches=2),
        pytest.raises(ValueError, match=r"must serve one run at a time\. Got one that is running"),
    ):
        rig.sample(wrapper)
    assert torch.equal(rig.sample(wrapper), alone)


def test_call_beyond_the_run_is_refused(rig):
    arguments = {"timestep": torch.full((3,), 500), "class_labels": rig.labels}
    stock = rig.model(rig.noise, **arguments).sample
    wrapper = rig.wrap(rig.config())
    rig.scheduler.set_timesteps(1)
    with wrapper.run(rig.scheduler, num_branches=1):
        wrapper(rig.noise, **arguments)
        with pytest.raises(ValueError, match=r"once a step\. Got call 2 of 1"):
            wrapper(rig.noise, **arguments)
    assert torch.equal(wrapper(rig.noise, **arguments).sample, stock)


def test_run_that_broke_off_leaves_the_model_stock(rig):
    stock = rig.sample()
    wrapper = rig.wrap(rig.config(), Interval(2))
    whole = rig.sample(wrapper)

    def break_off(done: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rig.sample(wrapper, on_step=break_off)
    assert torch.equal(rig.sample(), stock)
    assert torch.equal(rig.sample(wrapper), whole)


def test_controller_of_another_depth_is_refused(rig):
    wrapper = rig.wrap(rig.config(), num_layers=28)
    with pytest.raises(ValueError, match="num_layers must be the model's"):
        rig.sample(wrapper)


@pytest.mark.parametrize("changes", [{"sites": ("ff",)}, {"cached": "kv"}], ids=str)
def test_controller_of_other_sites_is_refused(rig, changes):
    wrapper = rig.wrap(rig.config(), Closed())
    guest = DQARController(rig.config(**changes))
    with pytest.raises(ValueError, match="controller's sites must be the patched ones"):
        rig.sample(wrapper, controller=guest)
    assert torch.equal(rig.sample(wrapper), rig.sample())


@pytest.mark.parametrize("extra", ["attention_mask", "encoder_hidden_states"])
@pytest.mark.parametrize("cached", ["output", "kv"])
def test_mask_or_encoder_states_are_refused_in_a_run(rig, extra, cached):
    wrapper = rig.wrap(rig.config(cached=cached))
    hidden = torch.zeros(2, 16, 16)
    attention = rig.model.transformer_blocks[0].attn1
    with (
        wrapper.run(rig.scheduler, num_branches=1),
        pytest.raises(ValueError, match="must take hidden states alone"),
    ):
        attention(hidden, **{extra: hidden})
