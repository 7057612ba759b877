"""Methods and sweep densities that the command line offers. Imports nothing, so that ``--help`` is
fast; the methods themselves stand in :mod:`pipeline.methods.registry`."""

from __future__ import annotations

from typing import Literal

DEFAULT_METHODS = (
    *("baseline", "fewer-steps", "interval", "interval-forecast2", "linear", "threshold"),
    "learned",
)
"""Methods that an evaluation compares where ``--methods`` is left out."""
SweepDensity = Literal["fine", "coarse"]
"""Names of :data:`pipeline.methods.base.GRIDS`."""
