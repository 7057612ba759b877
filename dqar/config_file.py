"""Configurations as YAML files: any dataclass by the names of its fields, and
:class:`~dqar.config.DQARConfig` under the keys of the DQAR paper's README.

    reuse_gate: {entropy_threshold: 2.0, snr_low: 0.1, snr_high: 10.0, adaptive_entropy: true}
    quantization: {mode: per_tensor, bits: 8}
    layer_scheduling: {enabled: true, schedule_type: step}

A key that a file leaves out keeps its default; ``configs/default.yaml`` shows every key.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import fields, make_dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from dqar.config import DQARConfig
from dqar.foreign_files import read_text, spelled
from dqar.validation import shown, validate

T = TypeVar("T")

MAX_BYTES = 2**18
"""Largest size of a configuration in bytes; PyYAML reads about 100 KB a second."""

PAPER_SECTIONS = {
    "reuse_gate": (
        "enabled",
        "entropy_threshold",
        "adaptive_entropy",
        "entropy_rows",
        "snr_low",
        "snr_high",
        "warmup_fraction",
        "cooldown_fraction",
        "max_gap",
        "max_reuse_per_block",
        "min_probability",
    ),
    "quantization": ("quantization_mode", "quantization_bits", "quantize_keys"),
    "layer_scheduling": (
        "use_layer_scheduling",
        "schedule_type",
        "layer_fraction",
        "deep_layer_snr_threshold",
    ),
}
"""Fields of the README's sections; all other fields are keys of the section :data:`OWN_SECTION`."""

OWN_SECTION = "reuse"

KEYS = {
    "quantization_mode": "mode",
    "quantization_bits": "bits",
    "use_layer_scheduling": "enabled",
}
"""Fields whose key is shorter than their name."""


def sections() -> dict[str, dict[str, str]]:
    """Return the file's layout: section to key to field of :class:`DQARConfig`."""
    placed = {name for names in PAPER_SECTIONS.values() for name in names}
    rest = tuple(entry.name for entry in fields(DQARConfig) if entry.name not in placed)
    return {
        section: {KEYS.get(name, name): name for name in names}
        for section, names in (PAPER_SECTIONS | {OWN_SECTION: rest}).items()
    }


def load_config(path: str | Path) -> DQARConfig:
    """Read the configuration of the reuse gate, the cache and the layer schedule.

    Raises:
        ValueError: one line that names the file, the section and key, and the fix.
    """
    layout = read_yaml(path, _layout())
    values = {
        name: getattr(section, key)
        for title, names in sections().items()
        if (section := getattr(layout, title)) is not None
        for key, name in names.items()
    }
    try:
        return DQARConfig(**values)
    except ValueError as error:
        raise ValueError(f"{spelled(path)} must hold a valid configuration: {error}") from error


@cache
def _layout() -> type[Any]:
    """Return a dataclass with a dataclass for each section; a section may be left empty."""
    hints = get_type_hints(DQARConfig)
    owned = {entry.name: entry for entry in fields(DQARConfig)}
    made = {
        title: make_dataclass(
            title, [(key, hints[name], owned[name].default) for key, name in names.items()]
        )
        for title, names in sections().items()
    }
    return make_dataclass("Layout", [(title, made[title] | None, None) for title in made])


def save_config(config: DQARConfig, path: str | Path) -> None:
    """Write every field; :func:`load_config` gives an equal configuration back."""
    import yaml

    stored = {
        section: {key: _plain(getattr(config, name)) for key, name in names.items()}
        for section, names in sections().items()
    }
    Path(path).write_text(yaml.safe_dump(stored, sort_keys=False), encoding="utf-8")


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def read_yaml(path: str | Path, kind: type[T]) -> T:
    """Read a dataclass from a YAML file whose keys are the names of its fields.

    Nested dataclasses are nested keys. Fields that the file leaves out keep their defaults.

    Args:
        path: the file.
        kind: a dataclass.

    Raises:
        ValueError: one line that names the file, the key, what it must be, what was got, the fix.
    """
    return validate(_parse(Path(path)), kind, name=spelled(path), extra="forbid", is_finite=False)


def _parse(path: Path) -> Any:
    """Return the values of a YAML file; an empty file has no keys."""
    import yaml

    try:
        text = read_text(path, max_bytes=MAX_BYTES)
        root, value = yaml.compose(text, Loader=yaml.SafeLoader), yaml.safe_load(text)
    # To PyYAML an impossible date is a ValueError, deep nesting a RecursionError, a number too
    # large an OverflowError, a tag that does not fit its text one of three others.
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{spelled(path)} must be a YAML file. Got: {reason:.300}. Fix the file."
        ) from error
    _check_nodes(root, spelled(path))
    return {} if value is None else value


def _check_nodes(root: Any, name: str) -> None:
    """Refuse keys that are no text or given twice, of which YAML takes the last, and lists and
    sections that an alias repeats: nested aliases repeat them exponentially often."""
    waiting, seen = [root] if root else [], set()
    while waiting:
        node = waiting.pop()
        if node.id == "scalar":
            continue
        if node in seen:
            raise ValueError(
                f"{name} must repeat no list or section. Got an alias of the one in line "
                f"{node.start_mark.line + 1}. Write it out."
            )
        seen.add(node)
        if node.id == "mapping":
            _check_keys([key for key, _ in node.value], name)
        waiting += [value for _, value in node.value] if node.id == "mapping" else node.value


def _check_keys(keys: list[Any], name: str) -> None:
    for key in keys:
        if key.tag != "tag:yaml.org,2002:str":
            raise ValueError(f"{name} must have texts as keys. Got {shown(key.value)}. Quote it.")
    counts = Counter(key.value for key in keys)
    if repeated := [shown(key) for key, count in counts.items() if count > 1]:
        raise ValueError(
            f"{name} must give each key once. Got {', '.join(repeated)} again. Keep one of them."
        )
