"""Mutants of the traces: commit protocol, lease, manifest, compaction."""

from __future__ import annotations

from tests.mutation.mutant import Mutant

COMMIT = "pipeline/traces/commit.py"
COMPACTION = "pipeline/traces/compaction.py"
LEASE = "pipeline/traces/lease.py"
MANIFEST = "pipeline/traces/manifest.py"
TEST_COMMIT = ("tests/pipeline/traces/test_commit.py", "tests/pipeline/traces/test_dataset.py")
TEST_COMPACTION = tuple(
    f"tests/pipeline/traces/test_compaction.py::test_{name}"
    for name in (
        "rows_digests_and_order_are_kept",
        "doing_it_again_changes_nothing",
        "units_of_a_damaged_part_alone_are_collected_again",
        "orphans_of_these_units_alone_are_deleted",
        "who_was_taken_over_deletes_and_publishes_nothing",
        "who_is_taken_over_meanwhile_stops",
        "a_manifest_names_no_shard_that_is_gone",
        "groups_keep_the_order_and_stay_small",
    )
)
TEST_LEASE = (
    "tests/pipeline/traces/test_lease.py",
    "tests/pipeline/traces/test_lease_renewal.py",
)
TEST_MANIFEST = ("tests/pipeline/traces/test_manifest.py", "tests/pipeline/traces/test_dataset.py")

TRACES_MUTANTS = (
    Mutant(
        fault="a plan that lost the race for a folder continues",
        file=COMMIT,
        old="    while not is_claimed(storage, plan):\n",
        new="    if not is_claimed(storage, plan):\n",
        tests=TEST_COMMIT,
    ),
    Mutant(
        fault="units of a damaged merged part count as done",
        file=COMMIT,
        old='if whole for i in part["units"]',
        new='for i in part["units"]',
        tests=TEST_COMPACTION,
    ),
    Mutant(
        fault="a merged part is kept although its units changed",
        file=COMMIT,
        old='        and all(now.get(index) == before[index] for index in part["units"])\n',
        new="",
        tests=(*TEST_COMMIT, *TEST_COMPACTION),
    ),
    Mutant(
        fault="units of a manifest in the order in which they ended",
        file=COMMIT,
        old='sorted(receipts.values(), key=lambda receipt: receipt["index"])',
        new="list(receipts.values())",
        tests=TEST_COMMIT,
    ),
    Mutant(
        fault="a receipt is written before its shards",
        file="pipeline/traces/tables.py",
        old="    return commit_receipt(storage, unit, with_digest(receipt))\n",
        new=(
            "    keys = [f\"{name}/{file['name']}\" for name, file in files.items()]\n"
            "    shards = {key: storage.read(key) or b'' for key in keys}\n"
            "    for key in keys:\n"
            "        storage.delete(key)\n"
            "    receipt = commit_receipt(storage, unit, with_digest(receipt))\n"
            "    for key, data in shards.items():\n"
            "        storage.write(key, data)\n"
            "    return receipt\n"
        ),
        tests=TEST_COMMIT,
    ),
    Mutant(
        fault="a receipt of another unit is believed",
        file="pipeline/traces/document_schemas.py",
        old="    if (found.unit_id, found.index) != (unit.unit_id, unit.index):\n",
        new="    if False:\n",
        tests=TEST_COMMIT,
    ),
    Mutant(
        fault="a second attempt returns its own receipt",
        file="pipeline/traces/shards.py",
        old="    return earlier or receipt\n",
        new="    return receipt\n",
        tests=TEST_COMMIT,
    ),
    Mutant(
        fault="a receipt whose shards are damaged is not replaced",
        file="pipeline/traces/shards.py",
        old="        storage.write(receipt_key(unit), as_json(receipt))\n",
        new="        pass\n",
        tests=TEST_COMMIT,
    ),
    Mutant(
        fault="a renewal undoes the release",
        file=LEASE,
        old="        renewing.join()\n",
        new="",
        tests=TEST_LEASE,
    ),
    Mutant(
        fault="a replaced holder continues to renew",
        file=LEASE,
        old="                    return\n",
        new="                    pass\n",
        tests=TEST_LEASE,
    ),
    Mutant(
        fault="a holder that has ended counts as alive",
        file="pipeline/traces/lease_document.py",
        old=" or self.holder.is_gone\n",
        new="\n",
        tests=TEST_LEASE,
    ),
    Mutant(
        fault="a release seen while waiting counts as a renewal",
        file=LEASE,
        old="now != seen and not now.is_over:",
        new="now != seen:",
        tests=TEST_LEASE,
    ),
    Mutant(
        fault="the newest lease by text",
        file=LEASE,
        old="max((int(match[1]) for match in found if match), default=0)",
        new='int(max((match[1] for match in found if match), default="0"))',
        tests=TEST_LEASE,
    ),
    Mutant(
        fault="a driver that lost the race for a lease holds it",
        file=LEASE,
        old="        if is_created or ",
        new="        if True or is_created or ",
        tests=TEST_LEASE,
    ),
    Mutant(
        fault="the newest manifest by text",
        file=MANIFEST,
        old="key=lambda match: int(match[1])",
        new="key=lambda match: match[1]",
        tests=TEST_MANIFEST,
    ),
    Mutant(
        fault="a manifest equal to the newest is published again",
        file=MANIFEST,
        old="    if latest == manifest:\n        return manifest\n",
        new="",
        tests=(*TEST_MANIFEST, *TEST_COMPACTION),
    ),
    Mutant(
        fault="a manifest of another driver counts as this driver's",
        file=MANIFEST,
        old=" and _newest(storage)[1] != manifest:",
        new=" and _newest(storage)[1] is None:",
        tests=TEST_MANIFEST,
    ),
    Mutant(
        fault="a manifest names shards that are gone",
        file=MANIFEST,
        old="    _refuse_missing_shards(storage, manifest)\n    key",
        new="    key",
        tests=TEST_COMPACTION,
    ),
    Mutant(
        fault="a replaced driver compacts",
        file=COMPACTION,
        old="    lease.check_not_fenced()\n    parts",
        new="    parts",
        tests=TEST_COMPACTION,
    ),
    Mutant(
        fault="a replaced driver publishes merged shards",
        file=COMPACTION,
        old="    lease.check_not_fenced()\n    manifest",
        new="    manifest",
        tests=TEST_COMPACTION,
    ),
    Mutant(
        fault="a replaced driver deletes",
        file=COMPACTION,
        old="    lease.check_not_fenced()\n    vacuum",
        new="    vacuum",
        tests=TEST_COMPACTION,
    ),
    Mutant(
        fault="a merged shard is merged again",
        file=COMPACTION,
        old="        room = 0.0 if is_merged else room",
        new="        room = room",
        tests=TEST_COMPACTION,
    ),
    Mutant(
        fault="shards of units outside the manifest are deleted",
        file=COMPACTION,
        old='return shard["unit"] in units if shard',
        new="return True if shard",
        tests=TEST_COMPACTION,
    ),
)
