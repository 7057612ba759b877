"""Stream of the gates table in whole trajectories, and what training reads or stores of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.errors import InputError
from pipeline.traces import read_gates, read_trajectories
from pipeline.traces.dataset import Traces
from pipeline.traces.multi_dataset import open_traces
from pipeline.traces.tables import as_table
from pipeline.train.gate_accumulators import MAX_GAP_QUANTILE
from pipeline.train.gate_table import ReusedGates
from tests.pipeline.gate_readers import (
    load_reused_gates,
    max_gap_of,
    sample_local_errors,
    store_reused_gates,
)

NAMES = ("log_gap", "progress")


@pytest.fixture
def in_pieces(monkeypatch):
    """Return a function that makes the gates table stream in batches of a number of rows, reordered
    if an order is given."""
    real = Traces.stream_gates

    def cut(rows, order=None):
        def stream(traces, columns):
            table = as_table("gates", real(traces, columns), columns)
            table = table if order is None else table.take(order(table))
            yield from table.combine_chunks().to_batches(max_chunksize=rows)

        monkeypatch.setattr(Traces, "stream_gates", stream)

    return cut


def in_memory(uri, names, collapse):
    """Return the reused gates computed from the whole table in memory, as the expected result."""
    table = read_trajectories(uri)
    place = {one: index for index, one in enumerate(table["trajectory_id"].to_pylist())}
    gates = read_gates(uri)
    gates = gates.filter(np.array(gates["action"].to_pylist()) != "compute")
    error = torch.tensor(table["latent_rel_l2"].to_numpy())
    everything = ReusedGates(
        features=torch.from_numpy(np.stack([gates[name].to_numpy() for name in names], axis=1)),
        trajectory=torch.tensor([place[one] for one in gates["trajectory_id"].to_pylist()]),
        squared_error=error.square(),
        noise=torch.unique(torch.tensor(table["noise_id"].to_numpy()), return_inverse=True)[1],
        weight=torch.ones(gates.num_rows),
    )
    return everything.collapsed() if collapse else everything


@pytest.mark.parametrize("rows", [1, 7, 50, 10**6])
@pytest.mark.parametrize("names", [NAMES, ("depth", *NAMES)], ids=["collapsed", "each"])
def test_what_is_streamed_is_what_was_read_at_once(traces, in_pieces, names, rows):
    expected = in_memory(str(traces), names, collapse="depth" not in names)
    in_pieces(rows)
    found = load_reused_gates(str(traces), names, ("attn",))
    for name in ("features", "trajectory", "weight", "squared_error", "noise"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name


def test_blocks_end_where_trajectories_end(traces, in_pieces):
    in_pieces(13)
    owners = [
        set(block.owner.tolist()) for block in open_traces(str(traces)).whole_trajectories(["site"])
    ]
    assert sum(map(len, owners)) == len(set.union(*owners)) == 24


def test_trajectories_that_lie_apart_are_refused(traces, in_pieces):
    in_pieces(50, order=lambda table: np.arange(table.num_rows).reshape(2, -1).T.ravel())
    with pytest.raises(InputError, match="one after the other"):
        list(open_traces(str(traces)).whole_trajectories(["site"]))


def test_parts_of_the_file_are_those_of_the_whole(traces, tmp_path):
    stored = store_reused_gates(str(traces), NAMES, ("attn",), tmp_path)
    whole = stored.load()
    assert torch.equal(stored.num_rows, whole.num_rows)
    assert torch.equal(stored.num_gates, whole.num_gates)
    for seed in range(5):
        chosen = torch.rand(24, generator=torch.Generator().manual_seed(seed)) < 0.5
        part, expected = stored.subset(chosen).load(), whole.subset(chosen)
        for name in ("features", "trajectory", "weight", "squared_error", "noise"):
            assert torch.equal(getattr(part, name), getattr(expected, name)), name


def test_sites_that_are_not_asked_for_leave_nothing(traces):
    gates = load_reused_gates(str(traces), NAMES, ("ff",))
    assert gates.features.shape == (0, 2)
    assert len(gates.squared_error) == 24


def test_the_largest_gap_is_numpys_quantile(traces, in_pieces):
    gates = read_gates(str(traces), ["log_gap", "action"])
    reused = gates.filter(np.array(gates["action"].to_pylist()) != "compute")
    quantile = np.quantile(reused["log_gap"].to_numpy(), MAX_GAP_QUANTILE)
    in_pieces(11)
    assert max_gap_of(str(traces)) == round(float(np.exp(quantile)))


def test_single_gates_are_drawn_from_all(traces, in_pieces):
    everyone = torch.ones(24, dtype=torch.bool)

    def sample(limit):
        found = sample_local_errors(str(traces), everyone, NAMES, ("attn",), limit=limit)
        return torch.cat([found.features, found.log_error[:, None]], dim=1)

    whole, at_once = sample(10**6), sample(60)
    in_pieces(31)
    assert torch.equal(sample(len(whole)), whole)
    rows = sample(60)
    assert len(rows) == 60
    assert torch.equal(rows, at_once)
    known = {tuple(row) for row in whole.tolist()}
    assert {tuple(row) for row in rows.tolist()} <= known
    # Gates late in a run are sampled as well as early ones.
    assert rows[:, 1].max() > 0.9


def test_a_sample_is_that_of_all_keys_at_once(traces, in_pieces):
    """Reservoir sampling with random keys: the sample has the gates with the smallest keys (Vitter,
    ACM TOMS 1985), the same as if all keys were drawn at once."""
    chosen = torch.arange(24) % 3 > 0
    whole = sample_local_errors(str(traces), chosen, NAMES, ("attn",), limit=10**6)
    gates = read_gates(str(traces), ["trajectory_id", "local_rel_error"])
    ids = read_trajectories(str(traces))["trajectory_id"].to_pylist()
    of_chosen = np.isin(gates["trajectory_id"].to_pylist(), np.array(ids)[chosen.numpy()])
    has_error = np.isfinite(gates["local_rel_error"].to_numpy())
    assert len(whole.log_error) == (of_chosen & has_error).sum() > 100
    keys = np.random.default_rng(7).random(len(whole.log_error))
    kept = np.sort(np.argsort(keys)[:100])
    in_pieces(50)
    found = sample_local_errors(str(traces), chosen, NAMES, ("attn",), limit=100, seed=7)
    assert torch.equal(found.features, whole.features[kept])
    assert torch.equal(found.log_error, whole.log_error[kept])
