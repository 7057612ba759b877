"""Trajectories of each fit of a training."""

from __future__ import annotations

import pytest
import torch

from pipeline.errors import InputError
from pipeline.traces.multi_dataset import open_traces
from pipeline.train import fits
from pipeline.train.config import TrainConfig
from pipeline.train.train import train
from pipeline.train.training_data import read_training_data, split_trajectories

GATES_EACH = 5 * 8
"""Gates of a trajectory that have a one-step error: those of all 6 steps except the first."""


@pytest.fixture
def opened(traces):
    return open_traces(str(traces))


def test_a_split_keeps_noise_samples_together(opened):
    split = split_trajectories(opened, TrainConfig(), (0, 0.0))
    assert split.usable.all()
    assert torch.equal(split.fitted, ~split.held_out)
    assert set(opened.noise_index[split.held_out.numpy()]) == {0, 5}


def test_a_split_of_one_noise_sample_is_refused(opened):
    opened.__dict__["noise_index"] = opened.noise_index * 0
    with pytest.raises(InputError, match=r"two noise samples. Got 1, with 24 trajectories"):
        split_trajectories(opened, TrainConfig(), (0, 0.0))


@pytest.mark.parametrize(
    ("config", "trajectories"),
    [
        (TrainConfig(), {"usable": 24}),
        (TrainConfig(label="local"), {"fitted": 18, "held_out": 6, "usable": 24}),
        (TrainConfig(features="full"), {}),
    ],
    ids=["plans", "local", "full"],
)
def test_one_step_errors_are_drawn_for_the_fits_that_need_them(
    opened, tmp_path, config, trajectories
):
    split = split_trajectories(opened, config, (0, 0.0))
    data = read_training_data(opened, config, ("attn",), split, tmp_path)
    found = {name: len(stored.load().log_error) for name, stored in data.local_errors.items()}
    assert found == {name: count * GATES_EACH for name, count in trajectories.items()}
    assert len(data.snrs) == 6
    assert len(data.gates.noise) == 24


def test_local_fits_take_their_subsets(opened, monkeypatch):
    real, sizes = fits.fit_local, []

    def recorded(spec, gates, config, *arguments, held_out=None, **named):
        sizes.append([len(one.log_error) for one in (gates, held_out) if one is not None])
        return real(spec, gates, config, *arguments, held_out=held_out, **named)

    monkeypatch.setattr(fits, "fit_local", recorded)
    train(TrainConfig(members=1, label="local"), opened)
    assert sizes == [[18 * GATES_EACH, 6 * GATES_EACH], [24 * GATES_EACH]]
    sizes.clear()
    train(TrainConfig(members=1), opened)
    assert sizes == [[24 * GATES_EACH]]
