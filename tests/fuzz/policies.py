"""Damaged policy folders, and odd texts as --policy."""

from __future__ import annotations

import itertools
import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

from tests.fuzz.cases import Case
from tests.fuzz.mutations import ODD, Change, damage_json, encode, replace_file
from tests.fuzz.valid_inputs import write_inputs
from tests.fuzz.weight_files import damage_weights

KIND = "policy"
NAMES = ("", "=", "==", "a=", "a/b=", "../x=", "é=", "x" * 300 + "=", "a b=", ".=", "-=", "a\nb=")
"""Texts before a folder in --policy."""
FIELDS = {
    "hidden": [[], [1] * 200_000, [4096] * 20, [0], [2**40], [-1], [32, 32, 1], "x"],
    "members": [0, 2, 64, 65, 2**40, -1],
    "features": [[], ["log_gap"] * 2, ["log_gap"] * 100_000, ["x"], ["log_gap"]],
    "means": [[1e300, 0], [0.0], [0.0] * 10_000],
    "scales": [[0.0, 1.0], [-1.0, 1.0], [1e-300, 1], [1e300, 1]],
    "savings": [{"attn": -1.0}, {"x": 1}, {}, {"attn": 0}],
    "sites": [[], ["x"], ["attn", "attn"], ["block"], ["ff"]],
    "plans": [[], [[0]], [[0, 1], [0]], [[1, 2]], [[0, 99]], [[0, 2], [0, 2]], [list(range(4))]],
    "plan_errors": [[], [0.1], [0.1] * 3, [-1.0, -2.0]],
    "steps": [0, 1, 3, 5, 2**31 - 1, 10**9, -1],
    "num_layers": [0, 7, 9, 2**31 - 1, 2**40],
    "sampler": ["", "dpm", "x", "DDIM"],
    "branch_mode": ["independent", "x", ""],
    "cache_mode": ["fp16", "x", "int3"],
    "granularity": ["gate", "x"],
    "forecast_order": [1, 2, 3, -1],
    "feedback": [0.5, 1.5, -1],
    "model_hash": ["", "x", "transformer=1", "a" * 10_000, "=" * 1000],
    "weights_sha256": ["", "x", "0" * 64, None, 3, []],
    "schema_version": [0, 2, "1", None],
    "guidance": [0.0, -1.0, 1e300],
}
"""Values of policy.json that are absurd or do not fit the other fields."""
MISFITS = ("hidden", "members", "num_layers", "model_hash")
"""Fields that the weights or the model tell, so that another value is silently wrong."""


def arguments(rng: random.Random, policy: str) -> tuple[str, tuple[str, ...]]:
    """Draw a job that reads a policy, with its arguments."""
    return rng.choice(
        [
            ("sample", (f"--policy={policy}", "--out", "out", "--model", "digits")),
            ("evaluate", (f"--policy={policy}", "--out", "out", "--model", "digits")),
            (
                "collect",
                (
                    *(f"--explore-around={policy}", "--exploration", "near-policy"),
                    *("--out", "out", "--num-trajectories", "2", "--model", "digits"),
                ),
            ),
        ]
    )


def cases(rng: random.Random, folder: Path) -> Iterator[Case]:
    """Yield jobs with a damaged policy folder or an odd text as --policy."""
    write_inputs(folder / "valid")
    policy = folder / "valid" / "policy"
    for place in itertools.count():
        if rng.random() < 0.1:
            yield _odd_text(rng, policy)
            continue
        copied = Path(shutil.copytree(policy, folder / str(place)))
        change = damage(rng, copied)
        job, args = arguments(rng, str(copied))
        yield Case(kind=KIND, job=job, args=args, note=change.note, is_damaged=change.is_damaged)
        shutil.rmtree(copied, ignore_errors=True)


def _odd_text(rng: random.Random, policy: Path) -> Case:
    name = rng.choice(NAMES)
    text = rng.choice([f"{name}{policy}", name, f"{name}{policy}/", f"{name}{policy}/policy.json"])
    more = rng.choice([(), (f"--policy={policy}",), (f"--policy=a={policy}",) * 2])
    args = ("--model", "digits", "--out", "out", f"--policy={text}", *more)
    return Case(
        kind=KIND, job="evaluate", args=args, note=f"--policy {text!r:.60} {len(more)} more"
    )


def damage(rng: random.Random, policy: Path) -> Change:
    """Damage a file of a policy folder, in half of the cases where no digest tells it."""
    stored = policy / "policy.json"
    if is_undigested := rng.random() < 0.5:
        document = json.loads(stored.read_text())
        del document["weights_sha256"]
        stored.write_text(json.dumps(document))
    kind = rng.choice(["field", "field", "json", "weights", "file"])
    if kind == "json":
        return damage_json(rng, stored)
    if kind == "weights":
        return damage_weights(rng, policy / "policy.safetensors")
    if kind == "file":
        return replace_file(rng, rng.choice(sorted(policy.iterdir())))
    field = rng.choice(sorted(FIELDS))
    value = rng.choice([*FIELDS[field], *FIELDS[field], rng.choice(ODD)])
    document = json.loads(stored.read_text())
    is_other = field in MISFITS and document[field] != value
    is_other |= field == "weights_sha256" and value is not None
    stored.write_bytes(encode(document | {field: value}))
    note = f"policy.json: {field} is {value!r:.40}, {'without' if is_undigested else 'with'} digest"
    return Change(note=note, is_damaged=is_other)
