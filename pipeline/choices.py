"""Lines that a job begins with: what it works with, and where each value comes from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

FLAG = "flag"
"""Source of a value that was typed."""
DEFAULT = "default"
"""Source of a value that neither a flag nor a file sets."""
RECORD = "the model's record"
"""Source of a value that the model's folder recommends."""
NO_RECORD = "default: the model records none"
"""Source of a value that the model's folder could recommend, and does not."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """A setting of a job, and its source."""

    name: str
    """Name of the setting, such as ``guidance scale``."""
    value: Any
    """Value of the setting."""
    source: str
    """Origin of the value: :data:`FLAG`, :data:`DEFAULT`, or a noun such as ``policy``."""

    def __str__(self) -> str:
        return f"{self.name} {_text(self.value)} ({self.source})"


def choices_line(job: str, choices: Iterable[Choice]) -> str:
    """Return the line of a job, such as ``sample: steps 50 (default), sampler ddim (flag)``.

    Args:
        job: name of the job, without ``.py``.
    """
    return f"{job}: {', '.join(map(str, choices))}"


def traced(
    values: Mapping[str, Any], given: Mapping[str, Any], sources: Mapping[str, str | None]
) -> list[Choice]:
    """Return the choices of settings that a flag sets or that follow something else.

    Args:
        values: chosen value of each setting, in the order of the line.
        given: value of each setting's flag; None or an empty tuple for a flag that was left out. A
            setting that is not named here has no flag.
        sources: source of each setting whose flag was left out; :data:`DEFAULT` for None.
    """
    return [
        Choice(
            name=name.replace("_", " "),
            value=value,
            source=(sources.get(name) or DEFAULT) if given.get(name) in (None, ()) else FLAG,
        )
        for name, value in values.items()
    ]


def sampling_line(
    job: str,
    model: str,
    digest: str,
    values: Mapping[str, Any],
    given: Mapping[str, Any],
    sources: Mapping[str, str | None],
) -> str:
    """Return the line of a job that samples a model: the model with its digest, then as
    :func:`traced`."""
    named = Choice(name="model", value=f"{model} with digest {digest}", source=FLAG)
    return choices_line(job, [named, *traced(values, given, sources)])


def guidance_source(*, is_recorded: bool) -> str:
    """Return the source of a guidance scale that follows the model."""
    return RECORD if is_recorded else NO_RECORD


def unless_default(value: Any, default: Any) -> Any:
    """Return the value of a flag, or None if it is the flag's default."""
    return None if value == default else value


def _text(value: Any) -> str:
    if isinstance(value, tuple | list):
        return ",".join(map(_text, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
