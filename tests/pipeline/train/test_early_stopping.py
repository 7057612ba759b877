"""Early stopping on held-out data; an interrupted fit resumes to the same bits."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

import pipeline.train.checkpoint
from dqar.policy.spec import PolicySpec
from pipeline.train.checkpoint import Checkpoint, CheckpointState
from pipeline.train.damage_model import CHUNK_ROWS, batches_of, fit_damage
from pipeline.train.early_stopping import ROUND, FitConfig, is_worse
from pipeline.train.gate_table import ReusedGates, bounded
from pipeline.train.local_error_model import fit_local
from pipeline.train.local_error_sample import LocalGates

SPEC = PolicySpec(features=("log_gap", "progress"), members=2)
CONFIG = FitConfig(steps=4 * ROUND)
CLAIM = {"config": "a", "traces": "b"}


def gates_of(seed, trajectories=40, rows=400, noise=0.0):
    """Return trajectories whose error is the sum of known damages, with multiplicative noise."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.rand(rows, 2, generator=generator)
    trajectory = torch.randint(trajectories, (rows,), generator=generator).sort().values
    total = torch.zeros(trajectories).index_add(0, trajectory, torch.exp(features[:, 0] - 6.0))
    spread = noise * torch.randn(trajectories, generator=generator)
    return ReusedGates(
        features=features,
        trajectory=trajectory,
        squared_error=total * spread.exp() + 1e-6,
        noise=torch.arange(trajectories) // 2,
        weight=torch.ones(rows),
    )


class CutOff(Exception):
    """Stands in for the kill of a process."""


def cut_off_after(step):
    def report(done, loss):
        if done > step:
            raise CutOff

    return report


def weights_of(fit):
    return fit.model.policy.state_dict()


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    """Function that returns a checkpoint that is written at every validation."""
    monkeypatch.setattr(pipeline.train.checkpoint, "EVERY_S", 0.0)
    return lambda claim=CLAIM: Checkpoint(tmp_path / "_checkpoint", "trial", claim)


@pytest.mark.parametrize("held_out", [None, gates_of(1)], ids=["alone", "held out"])
@pytest.mark.parametrize("rows_per_step", [10**6, 90], ids=["whole", "batches"])
def test_a_fit_that_was_cut_off_ends_at_the_same_bits(checkpoint, held_out, rows_per_step):
    gates, config = gates_of(0), replace(CONFIG, rows_per_step=rows_per_step)
    undisturbed = fit_damage(SPEC, gates, config, held_out=held_out)
    with pytest.raises(CutOff):
        fit_damage(
            SPEC,
            gates,
            config,
            cut_off_after(2 * ROUND),
            held_out=held_out,
            checkpoint=checkpoint(),
        )
    steps = []
    again = fit_damage(
        SPEC,
        gates,
        config,
        lambda step, loss: steps.append(step),
        held_out=held_out,
        checkpoint=checkpoint(),
    )
    assert steps[0] == 3 * ROUND
    assert again.state.kept_step == undisturbed.state.kept_step
    assert again.model.log_floor == undisturbed.model.log_floor
    for name, value in weights_of(undisturbed).items():
        assert torch.equal(weights_of(again)[name], value), name


def test_a_local_fit_that_was_cut_off_ends_at_the_same_bits(checkpoint):
    whole = gates_of(0)
    gates = LocalGates(features=whole.features, log_error=whole.features.sum(dim=1))
    undisturbed, _ = fit_local(SPEC, gates, CONFIG)
    with pytest.raises(CutOff):
        fit_local(SPEC, gates, CONFIG, cut_off_after(2 * ROUND), checkpoint=checkpoint())
    again, _ = fit_local(SPEC, gates, CONFIG, checkpoint=checkpoint())
    for name, value in undisturbed.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


def test_a_checkpoint_of_something_else_is_none(checkpoint):
    checkpoint().write(CheckpointState(tensors={"now.w": torch.ones(2)}, numbers={"step": 1}))
    assert checkpoint().read() is not None
    assert checkpoint({**CLAIM, "traces": "c"}).read() is None


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"claim": {}}', '{"claim": 3}'])
def test_a_checkpoint_that_cannot_be_read_is_none(checkpoint, text):
    checkpoint().write(CheckpointState(tensors={"now.w": torch.ones(2)}, numbers={"step": 1}))
    (checkpoint().folder / "trial.json").write_text(text)
    assert checkpoint().read() is None


def test_tensors_that_are_cut_short_or_elsewhere_are_none(checkpoint, tmp_path):
    kept = checkpoint()
    kept.write(CheckpointState(tensors={"now.w": torch.ones(2)}, numbers={"step": 1}))
    path = kept.folder / "trial.json"
    stored = json.loads(path.read_text())
    path.write_text(json.dumps(stored | {"tensors": "../../outside.safetensors"}))
    assert kept.read() is None
    path.write_text(json.dumps(stored))
    (kept.folder / stored["tensors"]).write_bytes(b"\x00" * 9)
    assert kept.read() is None


def test_a_stage_keeps_its_last_checkpoint_alone(checkpoint):
    kept = checkpoint()
    for step in (1, 2, 3):
        kept.write(
            CheckpointState(tensors={"now.w": torch.full((2,), step)}, numbers={"step": step})
        )
    assert sorted(path.suffix for path in kept.folder.iterdir()) == [".json", ".safetensors"]
    found = kept.read()
    assert found is not None
    assert found.part("now")["w"].tolist() == [3, 3]


def test_a_descent_ends_where_held_out_data_is_predicted_worse():
    """With unexplained errors (noise 2.0) further optimizer steps overfit, and the fit stops."""
    gates, held_out = gates_of(0, noise=2.0), gates_of(1, noise=2.0)
    config = FitConfig(steps=20 * ROUND, patience=2, learning_rate=2e-2)
    fit = fit_damage(SPEC, gates, config, held_out=held_out)
    kept = fit.state.kept_step
    assert fit.state.step == kept + 2 * ROUND < config.steps
    error = fit.model.predict(held_out) - held_out.log_error
    zero = torch.zeros_like(error)
    losses = torch.nn.functional.huber_loss(error, zero, reduction="none")
    by_noise = losses.view(-1, 2).mean(dim=1)
    assert not is_worse(by_noise, fit.state.best_losses)


def test_worse_is_more_than_a_standard_error():
    best = torch.tensor([1.0, 2.0, 3.0, 4.0])
    spread = torch.tensor([-1.0, 1.0, -1.0, 1.0])  # standard error 0.58
    assert not is_worse(best, best)
    assert not is_worse(best - 0.1, best)
    assert not is_worse(best + spread + 0.5, best)
    assert is_worse(best + spread + 0.6, best)
    assert is_worse(best + 0.01, best)
    assert is_worse(torch.tensor([1.1]), torch.tensor([1.0]))
    assert is_worse(best * torch.nan, best)


def test_a_fit_in_chunks_is_that_of_the_whole(monkeypatch):
    gates, config = gates_of(0), replace(CONFIG, steps=30)
    whole = fit_damage(SPEC, gates, config)
    monkeypatch.setattr("pipeline.train.damage_model.CHUNK_ROWS", 50)
    assert len(batches_of(gates, config.rows_per_step, 0)[0]) > 5
    chunked = fit_damage(SPEC, gates, config)
    for name, value in weights_of(whole).items():
        torch.testing.assert_close(weights_of(chunked)[name], value, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("rows", [1, 37, 400, 10**6])
def test_batches_hold_every_trajectory_once_and_noises_whole(rows):
    gates = gates_of(0)
    batches = [torch.cat(batch) for batch in batches_of(gates, rows, seed=3)]
    assert sorted(torch.cat(batches).tolist()) == list(range(40))
    noises = [set(gates.noise[batch].tolist()) for batch in batches]
    assert sum(map(len, noises)) == len(set.union(*noises)) == 20
    assert (len(batches) == 1) == (rows >= 400)
    if rows == 37:
        # A batch exceeds its share by at most the rows of one noise sample.
        largest = max(int(gates.num_rows[batch].sum()) for batch in batches)
        assert largest <= 37 + int(2 * gates.num_rows.max())
    assert CHUNK_ROWS > 400


def test_what_is_looked_at_is_bounded_and_of_whole_noises():
    gates = gates_of(0)
    assert bounded(gates, 400, seed=0) is gates
    few = bounded(gates, 100, seed=0)
    assert 0 < int(few.num_rows.sum()) <= 100
    assert torch.equal(few.squared_error, bounded(gates, 100, seed=0).squared_error)
    assert torch.bincount(few.noise).unique().tolist() == [2]
    assert len(bounded(gates, 1, seed=0).squared_error) == 2


@pytest.mark.parametrize("name", ["steps", "rows_per_step", "patience"])
def test_numbers_that_fit_nothing_are_refused(name):
    with pytest.raises(ValueError, match=rf"{name} must be at least 1. Got 0"):
        FitConfig(**{name: 0})
