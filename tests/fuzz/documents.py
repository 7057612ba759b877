"""Damaged documents: plans of schedules, configurations, and the files of a traces folder."""

from __future__ import annotations

import itertools
import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

from tests.fuzz.cases import Case
from tests.fuzz.mutations import ODD, VALUES, Change, damage_json, encode, pick, replace_file
from tests.fuzz.valid_inputs import write_inputs

KIND = "document"
PLANS = {
    "num_layers": [0, -1, 7, 9, 2**40, 10**9, None],
    "table": [[], ["0"], ["0" * 8] * 3, ["0" * 8] * 10_000, ["1" * 8] * 4, ["9" * 8] * 4, "0000"],
    "sites": [[], ["x"], ["attn", "attn"], ["block"], ["ff"]],
    "actions": [[], ["compute"], ["reuse", "compute"], ["x"], ["compute"] * 11],
    "sampler": ["", "x", "DPMSolverMultistepScheduler", "a" * 100_000, "\x1b[31m"],
    "timesteps": [[], [1, 2], [0.0] * 4, [1e300] * 4],
    "feedback": [0.5, 1.5, -1],
    "schema_version": [0, 2, "1", None],
}
"""Fields of a schedule's plan that are absurd or do not fit the others."""
YAMLS = (
    *("a: &x [1, 2]\nb: *x\n", "<<: {a: 1}\n", "? [1, 2]\n: 3\n", "1: 2\n", "null: 3\n"),
    *("!!python/object/apply:os.system ['true']\n", "!x y\n", "reuse: !!binary x\n"),
    *("\t\n", "a: b: c\n", "'", '"\\ud800"\n', "- 1\n", "1\n", "---\n---\n", "%YAML 9.9\n---\n"),
    *("[" * 20_000, "- " * 5000, "a: " * 5000, "{a: " * 5000, "&a " * 5000, "? " * 5000),
    *("reuse: {max_gap: 1:2:3:4}\n", "reuse: {max_gap: 2001-99-99}\n", "reuse: {max_gap: .nan}\n"),
    *(
        "reuse_gate: {max_gap: " + "9" * 5000 + "}\n",
        "reuse_gate: {snr_low: 0x" + "f" * 999 + "}\n",
    ),
    *("a: &a [x]\n" + "".join(f"b{n}: &b{n} [*a, *a]\n" for n in range(9)), "#" * 1000, "\x00"),
)
"""Texts in place of a configuration, or behind one."""
EVALUATED = "cached: output\ncache_bits: 8\ngreedy_policies: false\n"
"""Configuration of an evaluation."""
TRAINED = "target: final-error\n"
"""Configuration of a training."""
COLLECTED = (
    *(
        "--model",
        "digits",
        "--num-trajectories",
        "1",
        "--steps",
        "2",
    ),
    *("--error-feedback", "0.0", "--forecast-orders", "0", "--guidance-scale", "4.0"),
)
"""Arguments of the collection whose traces are damaged."""
TRACES = {
    "steps": [0, 1, 10**9, 2**40, -1],
    "num_layers": [0, 10**9, 2**40, -1],
    "num_trajectories": [0, 2, 10**9, 10**12, 10**20],
    "batch_size": [0, 10**9, -1],
    "rows": [0, 1, 10**12, -1],
    "bytes": [0, 1, 10**12, -1],
    "path": ["../../../../etc/passwd", "/etc/passwd", "", "x"],
}
"""Values of keys of a traces folder's documents, at any depth."""


def cases(rng: random.Random, folder: Path) -> Iterator[Case]:
    """Yield jobs with a damaged plan, configuration or traces folder."""
    write_inputs(folder / "valid")
    kinds = {"plan": _plan_case, "configuration": _config_case, "traces": _traces_case}
    for place in itertools.count():
        _, make = pick(rng, kinds)
        copied = folder / str(place)
        copied.mkdir()
        yield make(rng, folder / "valid", copied)
        shutil.rmtree(copied, ignore_errors=True)


def _case(job: str, args: tuple[str, ...], change: Change) -> Case:
    args = (*args, "--out", "out") if "--out" not in args else args
    return Case(kind=KIND, job=job, args=args, note=change.note, is_damaged=change.is_damaged)


def _plan_case(rng: random.Random, valid: Path, folder: Path) -> Case:
    plan = Path(shutil.copy(valid / "plan.json", folder / "plan.json"))
    kind = rng.choice(["field", "json", "json", "file"])
    if kind == "json":
        change = damage_json(rng, plan)
    elif kind == "file":
        change = replace_file(rng, plan)
    else:
        field = rng.choice(sorted(PLANS))
        value = rng.choice([*PLANS[field], rng.choice(ODD)])
        plan.write_bytes(encode(json.loads(plan.read_text()) | {field: value}))
        change = Change(note=f"plan: {field} is {value!r:.40}")
    return _case("sample", ("--plan", str(plan), "--model", "digits"), change)


def _config_case(rng: random.Random, valid: Path, folder: Path) -> Case:
    config = folder / "config.yaml"
    job, args, text = rng.choice(
        [
            ("sample", ("--model", "digits"), (valid / "config.yaml").read_text()),
            ("evaluate", ("--model", "digits", "--methods", "interval"), EVALUATED),
            ("train", ("--traces", str(valid / "traces")), TRAINED),
        ]
    )
    config.write_text(text)
    change = _damage_yaml(rng, config)
    return _case(job, (*args, "--config", str(config)), change)


def _damage_yaml(rng: random.Random, path: Path) -> Change:
    import yaml

    text = path.read_text()
    kind = rng.choice(["value", "value", "text", "behind", "twice", "cut", "file"])
    if kind == "file":
        return replace_file(rng, path)
    if kind == "value":
        _, change = pick(rng, VALUES)
        note, document, _ = change(rng, yaml.safe_load(text))
        # JSON is YAML, and spells what yaml.safe_dump refuses.
        path.write_bytes(encode(document))
        return Change(note=f"configuration: {note}")
    if kind == "cut":
        length = rng.randrange(len(text))
        path.write_text(text[:length])
        return Change(note=f"configuration: cut after {length} characters")
    if kind == "twice":
        path.write_text(text + "\n" + text)
        return Change(note="configuration: twice", is_damaged=True)
    odd = rng.choice(YAMLS)
    path.write_text(odd if kind == "text" else text + "\n" + odd)
    return Change(note=f"configuration: {kind} {odd!r:.40}")


def _traces_case(rng: random.Random, valid: Path, folder: Path) -> Case:
    traces = Path(shutil.copytree(valid / "traces", folder / "traces"))
    files = sorted(path for path in traces.rglob("*") if path.is_file())
    documents = [path for path in files if path.suffix == ".json"]
    kind = rng.choice(["field", "json", "json", "file"])
    if kind == "json":
        change = damage_json(rng, rng.choice(documents))
    elif kind == "file":
        change = replace_file(rng, rng.choice(files))
    else:
        change = _change_key(rng, rng.choice(documents))
    collect = (*COLLECTED, "--out", str(traces))
    job, args = rng.choice([("train", ("--traces", str(traces))), ("collect", collect)])
    # A resumed collection writes a damaged receipt or manifest again; training reads no receipts.
    is_read = change.note.startswith(("plan.json", "manifest.json"))
    is_damaged = change.is_damaged and job == "train" and is_read
    return _case(job, args, Change(note=change.note, is_damaged=is_damaged))


def _change_key(rng: random.Random, path: Path) -> Change:
    document = json.loads(path.read_text())
    holders = [one for one in _sections(document) if TRACES.keys() & one.keys()]
    if not holders:
        return damage_json(rng, path)
    section = rng.choice(holders)
    key = rng.choice(sorted(TRACES.keys() & section.keys()))
    section[key] = rng.choice([*TRACES[key], rng.choice(ODD)])
    path.write_bytes(encode(document))
    return Change(note=f"{path.name}: {key} is {section[key]!r:.40}")


def _sections(value: object) -> list[dict]:
    if isinstance(value, list):
        return [found for item in value for found in _sections(item)]
    if not isinstance(value, dict):
        return []
    return [value, *(found for item in value.values() for found in _sections(item))]
