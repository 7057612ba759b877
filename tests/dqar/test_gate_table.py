"""A gate table holds the gates that exist, site by site, layers numbered through all stacks."""

from __future__ import annotations

import pytest
import torch

from dqar.gate_table import GateTable, StackShape
from dqar.schedules.serialization import load_plan, save_plan
from dqar.schedules.static_plan import StaticPlan

FLUX = (
    StackShape(name="transformer_blocks", num_layers=2, sites=("attn", "ff", "block", "stack")),
    StackShape(name="single_transformer_blocks", num_layers=3, sites=("attn", "block", "stack")),
)
LAST_LACKS_TEXT = (
    StackShape(
        name="transformer_blocks",
        num_layers=3,
        sites=("attn", "ff_context"),
        absent=frozenset({("ff_context", 2)}),
    ),
)


def test_ragged_table_holds_only_gates_that_exist():
    table = GateTable(sites=("attn", "ff"), stacks=FLUX)
    assert table.gates == (
        *(("attn", layer) for layer in range(5)),
        *(("ff", layer) for layer in range(2)),
    )
    assert table.slices == {"attn": slice(0, 5), "ff": slice(5, 7)}
    assert (table.num_layers, table.num_gates, table.first_layers) == (5, 7, (0, 2))
    assert not table.is_regular
    assert table.index("ff", 1) == 6


def test_a_stack_is_one_gate_at_its_first_layer():
    assert GateTable(sites=("stack",), stacks=FLUX).gates == (("stack", 0), ("stack", 2))
    assert GateTable.regular(("stack",), 28).gates == (("stack", 0),)


def test_single_blocks_may_lack_a_site():
    table = GateTable(sites=("ff_context",), stacks=LAST_LACKS_TEXT)
    assert table.gates == (("ff_context", 0), ("ff_context", 1))
    with pytest.raises(ValueError, match=r"gate must exist.*layer=2"):
        table.index("ff_context", 2)


def test_a_site_that_no_layer_has_is_refused():
    with pytest.raises(ValueError, match=r"Each site must exist.*'cross'.*attn, ff, block, stack"):
        GateTable(sites=("cross",), stacks=FLUX)


@pytest.mark.parametrize("sites", [("attn", "ff"), ("stack",)])
def test_ragged_plan_comes_back_from_its_file(tmp_path, sites):
    table = GateTable(sites=sites, stacks=FLUX)
    reuse = [[False] * table.num_gates, [True] * table.num_gates]
    plan = StaticPlan.of_mask(torch.tensor(reuse), sites=sites, gates=table)
    save_plan(plan, tmp_path / "plan.json")
    found = load_plan(tmp_path / "plan.json")
    assert found == plan
    assert found.gate_table == table
    plan.refuse_misfit(table, [1.0, 0.0])
    with pytest.raises(ValueError, match="same sites in the same layers"):
        plan.refuse_misfit(5, [1.0, 0.0])
