"""Traces on disk: readers get exactly the rows that were committed and published."""

import json

import pyarrow as pa
import pytest

from pipeline.errors import InputError
from pipeline.exploration.collect_plan import CollectPlan
from pipeline.traces import read_gates, read_trajectories, stream_gates
from pipeline.traces.commit import claim_output, committed_receipts, write_manifest
from pipeline.traces.multi_dataset import open_traces
from pipeline.traces.tables import GATES, TRAJECTORIES, commit_unit
from tests.pipeline.little_traces import FACTS, LAYERS, PLAN, STEPS, columns_of, commit_all


@pytest.fixture
def root(tmp_path):
    """Folder of a finished dataset of two units."""
    folder = tmp_path / "traces"
    claim_output(folder, PLAN)
    write_manifest(folder, PLAN, commit_all(folder), FACTS)
    return folder


def edit_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def manifest_of(root):
    return root / "_manifest" / "v000001.json"


def shard_of(root, table="gates"):
    return sorted((root / table).glob("[!_]*.parquet"))[0]


def truncate(path):
    path.write_bytes(path.read_bytes()[:-20])


def test_both_tables_come_back_in_their_schema_and_order(root):
    trajectories, gates = read_trajectories(str(root)), read_gates(str(root))
    assert trajectories.schema.equals(TRAJECTORIES)
    assert gates.schema.equals(GATES)
    expected = [PLAN.trajectory_id(index) for index in range(PLAN.num_trajectories)]
    assert trajectories["trajectory_id"].to_pylist() == expected
    assert list(dict.fromkeys(gates["trajectory_id"].to_pylist())) == expected


def test_values_come_back(root):
    wanted, gates = columns_of(next(PLAN.units()))
    first = read_trajectories(str(root)).slice(0, 6)
    assert first["latent_rel_l2"].to_pylist() == wanted["latent_rel_l2"]
    assert first["design"].to_pylist() == ["independent"] * 6
    found = read_gates(str(root)).slice(0, 6 * STEPS * LAYERS)
    for name in ("step", "layer", "action", "eligible", "draw_id", "timestep"):
        assert found[name].to_pylist() == gates[name]


def test_nan_and_none_are_null(root):
    error = read_gates(str(root))["local_rel_error"]
    assert error.null_count == PLAN.num_trajectories * LAYERS
    assert set(error.drop_null().to_pylist()) == {0.125}
    assert read_trajectories(str(root))["prompt"].null_count == PLAN.num_trajectories


def test_gates_are_trajectories_times_steps_times_gates(root):
    manifest = open_traces(str(root)).manifest
    assert manifest["trajectories"] == read_trajectories(str(root)).num_rows == 10
    assert manifest["gates"] == read_gates(str(root)).num_rows == 10 * STEPS * LAYERS


def test_a_value_missing_from_a_column_is_not_committed(root):
    unit = next(PLAN.units())
    trajectories, gates = columns_of(unit)
    with pytest.raises((pa.ArrowInvalid, pa.ArrowTypeError, KeyError, ValueError)):
        commit_unit(root, unit, {**trajectories, "noise_id": ["x"] * 6}, gates, {})
    assert read_trajectories(str(root)).num_rows == 10


def test_streaming_reused_gates_is_a_filter_of_all(root):
    columns = ["trajectory_id", "step", "layer", "action"]
    streamed = pa.Table.from_batches(list(stream_gates(str(root), columns, only_reused=True)))
    everything = read_gates(str(root), columns).to_pylist()
    assert streamed.to_pylist() == [row for row in everything if row["action"] == "reuse"]
    assert streamed.num_rows > 0


def test_streaming_without_a_filter_is_everything(root):
    assert sum(batch.num_rows for batch in stream_gates(str(root))) == 10 * STEPS * LAYERS


def test_the_same_plan_claims_its_folder_again(root):
    before = sorted(path.name for path in root.rglob("*"))
    claim_output(root, PLAN)
    assert sorted(path.name for path in root.rglob("*")) == before


def test_another_plan_is_refused_by_what_differs(root):
    other = CollectPlan(
        model="digits", model_hash="0" * 16, num_trajectories=10, batch_size=6, steps=STEPS, seed=5
    )
    with pytest.raises(InputError, match=r"seed 0 instead of 5.*Name another folder"):
        claim_output(root, other)


def test_a_folder_with_other_files_is_refused_and_untouched(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="holds other files"):
        claim_output(tmp_path, PLAN)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_an_empty_folder_is_claimed(tmp_path):
    claim_output(tmp_path, PLAN)
    assert (tmp_path / "plan.json").exists()


def test_what_a_killed_writer_leaves_is_invisible(root):
    (root / "gates" / "_half.parquet.abc").write_bytes(b"PAR1 cut short")
    (root / "trajectories" / "_half.parquet").write_bytes(b"PAR1 cut short")
    (root / "_receipts" / "_half.json.abc").write_text("{")
    assert read_gates(str(root)).num_rows == 10 * STEPS * LAYERS
    assert len(committed_receipts(root, PLAN)) == 2
    claim_output(root, PLAN)


def test_a_shard_that_no_manifest_names_is_invisible(root):
    foreign = root / "trajectories" / "foreign.parquet"
    foreign.write_bytes(shard_of(root, "trajectories").read_bytes())
    assert read_trajectories(str(root)).num_rows == 10


def test_a_unit_without_receipt_is_not_committed(tmp_path):
    claim_output(tmp_path, PLAN)
    units = list(PLAN.units())
    commit_all(tmp_path, units=units[:1])
    assert set(committed_receipts(tmp_path, PLAN)) == {units[0].unit_id}


@pytest.mark.parametrize("table", ["gates", "trajectories"])
def test_a_unit_with_a_truncated_shard_is_collected_again(root, table):
    shard = shard_of(root, table)
    truncate(shard)
    assert shard.stem[:16] not in committed_receipts(root, PLAN)
    assert len(committed_receipts(root, PLAN)) == 1


@pytest.mark.parametrize("table", ["gates", "trajectories"])
def test_a_truncated_shard_is_refused_with_the_fix(root, table):
    truncate(shard_of(root, table))
    with pytest.raises(InputError, match=r"must have \d+ bytes.*trajectories again"):
        read_trajectories(str(root))


def test_a_missing_shard_is_refused(root):
    shard_of(root).unlink()
    with pytest.raises(InputError, match="Got 0"):
        read_gates(str(root))


def test_no_plan_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"holds no plan\.json"):
        open_traces(str(tmp_path))


def test_an_unfinished_collection_is_refused(tmp_path):
    claim_output(tmp_path, PLAN)
    commit_all(tmp_path)
    with pytest.raises(InputError, match=r"no manifest.*again to finish the collection"):
        open_traces(str(tmp_path))


def test_another_schema_version_is_refused(root):
    edit_json(manifest_of(root), schema_version=99)
    with pytest.raises(InputError, match=r"version 3 or 4\. Got 99.*collect them again"):
        open_traces(str(root))


def test_an_empty_collection_is_refused(root):
    edit_json(manifest_of(root), units=[])
    with pytest.raises(InputError, match=r"empty collection.*--num-trajectories"):
        open_traces(str(root))


def test_a_manifest_that_is_no_json_is_refused(root):
    manifest_of(root).write_text("{")
    with pytest.raises(InputError, match="must be JSON"):
        open_traces(str(root))


def test_digests_do_not_depend_on_the_order_of_receipts(tmp_path):
    manifests = []
    for name, backwards in (("one", False), ("other", True)):
        folder = tmp_path / name
        claim_output(folder, PLAN)
        units = list(PLAN.units())
        receipts = commit_all(folder, units=units[::-1] if backwards else units)
        manifests.append(write_manifest(folder, PLAN, receipts, FACTS))
    for key in ("decision_digest", "data_digest", "units"):
        assert manifests[0][key] == manifests[1][key]


def test_publishing_the_same_again_makes_no_new_version(root):
    write_manifest(root, PLAN, committed_receipts(root, PLAN), FACTS)
    assert [path.name for path in (root / "_manifest").iterdir()] == ["v000001.json"]


def test_the_newest_manifest_counts(root):
    first, *_ = PLAN.units()
    trajectories, gates = columns_of(first)
    (root / "_receipts" / f"{first.unit_id}.json").unlink()
    commit_unit(root, first, trajectories | {"psnr": 31.0}, gates, {})
    write_manifest(root, PLAN, committed_receipts(root, PLAN), FACTS)
    assert read_trajectories(str(root))["psnr"].to_pylist() == [31.0] * 6 + [30.0] * 4


def test_floats_change_the_data_digest_but_not_the_decisions(root, tmp_path):
    other = tmp_path / "other"
    claim_output(other, PLAN)
    receipts = {}
    for unit in PLAN.units():
        trajectories, gates = columns_of(unit)
        receipts[unit.unit_id] = commit_unit(other, unit, trajectories | {"psnr": 31.0}, gates, {})
    changed = write_manifest(other, PLAN, receipts, FACTS)
    first = open_traces(str(root)).manifest
    assert changed["decision_digest"] == first["decision_digest"]
    assert changed["data_digest"] != first["data_digest"]
