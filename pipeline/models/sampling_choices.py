"""Samplers and dtypes by name, and the sampling settings where neither a flag nor a policy nor the
model says otherwise. Imports nothing, so that ``--help`` is fast."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Sampler: TypeAlias = str
"""A solver with its settings, such as ``ddim`` or ``dpm:solver_order=3,use_karras_sigmas=true``, in
the spelling of :func:`canonical_sampler`."""
Dtype = Literal["fp32", "fp16", "bf16"]
"""Floating-point formats of a model's arithmetic."""
DTYPE: Dtype = "fp32"
"""Floating-point format."""
STEPS = 50
"""Sampling steps."""
SAMPLER: Sampler = "ddim"
"""Sampler."""
SITES = ("attn",)
"""Parts of the model whose values are reused."""

SWITCH = ("true", "false")
SPACING = {"timestep_spacing": ("leading", "linspace", "trailing")}
SIGMAS = {
    **dict.fromkeys(("use_karras_sigmas", "use_exponential_sigmas", "lower_order_final"), SWITCH),
    "solver_order": ("1", "2", "3"),
}
SETTINGS: dict[str, dict[str, tuple[str, ...]]] = {
    "ddim": SPACING,
    "dpm": {
        **SPACING,
        **SIGMAS,
        "euler_at_final": SWITCH,
        "final_sigmas_type": ("zero", "sigma_min"),
        "solver_type": ("midpoint", "heun"),
        "use_lu_lambdas": SWITCH,
    },
    "unipc": {
        **SPACING,
        **SIGMAS,
        "final_sigmas_type": ("zero", "sigma_min"),
        "predict_x0": SWITCH,
        "solver_type": ("bh1", "bh2"),
    },
    "deis": {**SPACING, **SIGMAS},
    "saved": {},
}
"""Settings of each solver with their values, as diffusers names them. Those left out are the saved
scheduler's, else diffusers' defaults. None of them draws noise."""
FIX = "Pass --sampler ddim, or such as dpm:solver_order=3,use_karras_sigmas=true."


@dataclass(frozen=True, kw_only=True, slots=True)
class SolverSetting:
    """A sampler in parts."""

    solver: str
    """Key of :data:`SETTINGS`."""
    texts: dict[str, str]
    """Settings as they were given, by name, sorted."""

    @property
    def values(self) -> dict[str, bool | int | str]:
        """Settings as the scheduler's class takes them."""
        typed = {"true": True, "false": False}
        return {
            name: int(text) if text.isdigit() else typed.get(text, text)
            for name, text in self.texts.items()
        }


def read_sampler(sampler: str) -> SolverSetting:
    """Return a sampler in parts.

    Raises:
        ValueError: one line that names the unknown solver, setting or value.
    """
    solver, colon, rest = sampler.partition(":")
    if solver not in SETTINGS:
        raise ValueError(f"sampler must be one of {', '.join(SETTINGS)}. Got {solver!r:.60}. {FIX}")
    pairs = [part.partition("=") for part in rest.split(",")] if colon else []
    texts = {name.strip(): text.strip() for name, _, text in pairs}
    if len(texts) < len(pairs):
        raise ValueError(f"sampler must have each setting once. Got {sampler!r:.200}. {FIX}")
    for name, text in texts.items():
        _refuse_unknown(solver, name, text)
    return SolverSetting(solver=solver, texts=dict(sorted(texts.items())))


def _refuse_unknown(solver: str, name: str, text: str) -> None:
    known = SETTINGS[solver]
    if name not in known:
        raise ValueError(
            f"sampler must have settings of {solver}: {', '.join(sorted(known)) or 'none'}. Got "
            f"{name!r:.60}. {FIX}"
        )
    if text not in known[name]:
        raise ValueError(
            f"sampler must have {name} of {', '.join(known[name])}. Got {text!r:.60}. {FIX}"
        )


def canonical_sampler(sampler: str) -> Sampler:
    """Return the one spelling of a sampler, whose settings are sorted.

    Raises:
        ValueError: as :func:`read_sampler`.
    """
    setting = read_sampler(sampler)
    settings = ",".join(f"{name}={text}" for name, text in setting.texts.items())
    return f"{setting.solver}:{settings}" if settings else setting.solver


def require_sampler(sampler: str | None) -> None:
    """Refuse a flag that is no sampler; None, for a flag left out, passes.

    Raises:
        ValueError: as :func:`read_sampler`.
    """
    if sampler is not None:
        read_sampler(sampler)


def sampler_change(found: str, wanted: str) -> str:
    """Name the parts in which two samplers differ. Example: ``"dpm with solver_order 3 instead of
    2"``; by their texts if one of them is of another release."""
    try:
        one, other = read_sampler(found), read_sampler(wanted)
    except ValueError:
        return f"sampler {found!r:.200} instead of {wanted!r:.200}"
    if one.solver != other.solver:
        return f"sampler {found!r} instead of {wanted!r}"
    names = [name for name in SETTINGS[one.solver] if one.texts.get(name) != other.texts.get(name)]
    parts = [
        f"{name} {one.texts.get(name, 'left out')} instead of {other.texts.get(name, 'left out')}"
        for name in names
    ]
    return f"sampler {one.solver} with {', '.join(parts)}"
