"""Samplers as policies and plans name them: a solver with its settings.

A sampler is one text, such as ``ddim`` or ``dpm:solver_order=3,use_karras_sigmas=true``: the name
of a solver, then its settings in alphabetical order. A plan names the solver's class in diffusers,
with the same settings: ``DPMSolverMultistepScheduler:solver_order=3,use_karras_sigmas=true``.
"""

from __future__ import annotations

import re

SOLVERS = {
    "ddim": "DDIMScheduler",
    "dpm": "DPMSolverMultistepScheduler",
    "unipc": "UniPCMultistepScheduler",
    "deis": "DEISMultistepScheduler",
    "saved": "saved",
}
"""Class of the scheduler of each solver; ``saved`` is the scheduler of the model's folder."""
SETTINGS = re.compile(r"(:\w+=[\w+]+(,\w+=[\w+]+){0,9})?", re.ASCII)
"""Settings of a sampler, behind the solver's name."""
MAX_SAMPLER = 300
"""Longest sampler of a policy or a plan, in characters."""


def is_sampler(text: str) -> bool:
    """True for the text of a sampler; its settings are checked where it is used."""
    solver, settings = _parts(text)
    return len(text) <= MAX_SAMPLER and solver in SOLVERS and bool(SETTINGS.fullmatch(settings))


def plan_sampler(sampler: str) -> str:
    """Return the name that a plan has for a sampler; empty for the empty one."""
    solver, settings = _parts(sampler)
    return f"{SOLVERS[solver]}{settings}" if sampler else ""


def sampler_of_plan(named: str) -> str | None:
    """Return the sampler that a plan names; None if it names none of :data:`SOLVERS`."""
    kind, settings = _parts(named)
    solver = next((solver for solver, known in SOLVERS.items() if known == kind), None)
    return None if solver is None else f"{solver}{settings}"


def _parts(text: str) -> tuple[str, str]:
    name, colon, settings = text.partition(":")
    return name, colon + settings
