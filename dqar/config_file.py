"""The configuration as a YAML file, under the seed README's keys.

    reuse_gate: {entropy_threshold: 2.0, snr_low: 0.1, snr_high: 10.0, adaptive_entropy: true}
    quantization: {mode: per_tensor, bits: 8}
    layer_scheduling: {enabled: true, schedule_type: step}

What a file leaves out keeps its default; ``configs/default.yaml`` shows every key.
"""

from __future__ import annotations

import difflib
import math
import reprlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from types import NoneType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from dqar.config import DQARConfig

T = TypeVar("T")

SEED_SECTIONS = {
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
"""The fields of the seed's sections; every other field stands under :data:`OWN_SECTION`."""

OWN_SECTION = "reuse"

KEYS = {
    "quantization_mode": "mode",
    "quantization_bits": "bits",
    "use_layer_scheduling": "enabled",
}
"""Fields whose key is shorter than their name."""

LARGEST = 2**63 - 1
"""The largest whole number that a tensor takes; a much larger one has no float either."""

KINDS = {float: "a number", int: "a whole number", bool: "true or false", NoneType: "null"}


def sections() -> dict[str, dict[str, str]]:
    """The file's layout: section to key to field of :class:`DQARConfig`."""
    placed = {name for names in SEED_SECTIONS.values() for name in names}
    rest = tuple(entry.name for entry in fields(DQARConfig) if entry.name not in placed)
    return {
        section: {KEYS.get(name, name): name for name in names}
        for section, names in (SEED_SECTIONS | {OWN_SECTION: rest}).items()
    }


def load_config(path: str | Path) -> DQARConfig:
    """Read a configuration.

    Raises:
        ValueError: naming the file, the section and key, and the mend.
    """
    hints = get_type_hints(DQARConfig)
    values: dict[str, Any] = {}
    for section, given in _mapping(_parse(Path(path)), f"{path}").items():
        names = _known(sections(), section, f"{path} must have known sections")
        for key, value in _mapping(given, f"{path}: {section}").items():
            name = _known(names, key, f"{path}: {section} must have known keys")
            values[name] = _typed(hints[name], value, f"{path}: {section}.{key}")
    try:
        return DQARConfig(**values)
    except ValueError as error:
        raise ValueError(f"{path} must hold a valid configuration: {error}") from error


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


def _parse(path: Path) -> Any:
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        root, value = yaml.compose(text, Loader=yaml.SafeLoader), yaml.safe_load(text)
    # To PyYAML an impossible date is a ValueError, deep nesting a RecursionError, a number too
    # large an OverflowError, a tag that does not fit its text one of three others.
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{path} must be a YAML file. Got: {reason}. Start from configs/default.yaml."
        ) from error
    if repeated := _repeated(root):
        raise ValueError(
            f"{path} must give each key once. Got {', '.join(repeated)} again. Keep one of them."
        )
    return value


def _repeated(root: Any) -> list[str]:
    """Keys that the file or one of its sections holds again; YAML would take the last."""
    found: list[str] = []
    for section in (root, *(value for _, value in _pairs(root))):
        keys = [key.value for key, _ in _pairs(section) if key.id == "scalar"]
        found += [_shown(key) for key, count in Counter(keys).items() if count > 1]
    return found


def _pairs(node: Any) -> list[tuple[Any, Any]]:
    return node.value if getattr(node, "id", None) == "mapping" else []


def _mapping(value: Any, where: str) -> dict[Any, Any]:
    if value is None:  # an empty file or section
        return {}
    if not isinstance(value, dict):
        raise ValueError(
            f"{where} must hold keys with values. Got {_shown(value)}. "
            "Start from configs/default.yaml."
        )
    return value


def _known(names: Mapping[str, T], given: Any, must_hold: str) -> T:
    if isinstance(given, str) and given in names:
        return names[given]
    name = given if isinstance(given, str) else _shown(given)
    (nearest,) = difflib.get_close_matches(name, names, n=1, cutoff=0.0)
    raise ValueError(
        f"{must_hold}. Got {_shown(given)}. The nearest is {nearest!r}; all are {', '.join(names)}."
    )


def _typed(hint: Any, value: Any, where: str) -> Any:
    if not _fits(hint, value):
        raise ValueError(f"{where} must be {_kind(hint)}. Got {_shown(value)}. {_mend(value)}")
    if isinstance(value, list):
        return tuple(value)
    # A whole number may stand for a real one, but an int field must not become a float.
    is_real = float in (hint, *get_args(hint)) and type(value) is int
    return float(value) if is_real else value


def _mend(value: Any) -> str:
    try:
        is_quoted = isinstance(value, str) and math.isfinite(float(value))
    except ValueError:
        is_quoted = False
    if not is_quoted:
        return "Mend the value."
    return "YAML takes it for text: write 1.0e-3 for 1e-3, 1.0e+3 for 1e3, and no quotes."


def _shown(value: Any) -> str:
    try:
        return reprlib.repr(value)
    except ValueError:  # Python spells no whole number of thousands of digits
        return "a number of thousands of digits"


def _fits(hint: Any, value: Any) -> bool:
    choices = get_args(hint)
    if get_origin(hint) is Literal:
        return any(value == choice and type(value) is type(choice) for choice in choices)
    if get_origin(hint) is tuple:
        return isinstance(value, list) and all(_fits(choices[0], item) for item in value)
    if choices:
        return any(_fits(choice, value) for choice in choices)
    if type(value) is int and abs(value) > LARGEST:
        return False
    if hint is float:
        return type(value) in (int, float) and value == value  # not a number is no threshold
    # To isinstance, true would be a whole number.
    return type(value) is hint


def _kind(hint: Any) -> str:
    choices = get_args(hint)
    if get_origin(hint) is Literal:
        return f"one of {', '.join(map(str, choices))}"
    if get_origin(hint) is tuple:
        return "a list such as [attn]"
    return " or ".join(KINDS.get(choice, str(choice)) for choice in choices or (hint,))
