"""Axes of the frontier figure: FLOPs ratio across, error upwards on a logarithmic scale."""

from __future__ import annotations

import math
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from pipeline.report.figures import shown_error
from pipeline.report.rows import ReportRow
from pipeline.report.svg import add

BELOW = 3.0
"""An interval that reaches further below the smallest error than this factor is cut off."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Axes:
    """Plotting area in pixels, and the values at its edges."""

    left: float
    right: float
    top: float
    bottom: float
    most: float
    """FLOPs ratio at the right edge; the left edge is 1."""
    low: float
    """Error at the bottom."""
    high: float
    """Error at the top."""

    @classmethod
    def around(cls, points: list[ReportRow], *, width: float, height: float, margin: float) -> Axes:
        """Return axes that hold all points, with a margin on the right for labels."""
        errors = [point.latent_rel_l2 for point in points]
        ends = [end for point in points for end in point.latent_rel_l2_ci95 or ()]
        ends = [end for end in ends if math.isfinite(end)]
        least = max(min(errors) / BELOW, min([end for end in ends if end > 0] + errors))
        most = max(point.flops_ratio for point in points)
        return cls(
            left=58.0,
            right=width - margin,
            top=14.0,
            bottom=height - 46.0,
            most=max(1.2, most * 1.02),
            low=least / 1.15,
            high=max(errors + ends) * 1.15,
        )

    def x(self, flops_ratio: float) -> float:
        """Return the place of a FLOPs ratio."""
        share = (flops_ratio - 1.0) / (self.most - 1.0)
        return self.left + max(0.0, share) * (self.right - self.left)

    def y(self, error: float) -> float:
        """Return the place of an error; one beyond the axis lies on its edge."""
        error = min(max(error, self.low), self.high)
        share = math.log(error / self.low) / math.log(self.high / self.low)
        return self.bottom - share * (self.bottom - self.top)


def draw_axes(root: Element, axes: Axes) -> None:
    """Draw grid, tick labels and names of the axes."""
    for value in flops_ticks(axes.most):
        x = axes.x(value)
        add(root, "line", x1=x, x2=x, y1=axes.top, y2=axes.bottom, class_="grid")
        label = f"{value:g}x"
        add(root, "text", label, x=x, y=axes.bottom + 17.0, text_anchor="middle", class_="tick")
    for value in error_ticks(axes.low, axes.high):
        y = axes.y(value)
        add(root, "line", x1=axes.left, x2=axes.right, y1=y, y2=y, class_="grid")
        label = shown_error(value) if value < 0.001 else f"{value:g}"
        add(root, "text", label, x=axes.left - 7.0, y=y + 4.0, text_anchor="end", class_="tick")
    middle, low = (axes.left + axes.right) / 2, axes.bottom + 38.0
    text = "times fewer FLOPs than the reference"
    add(root, "text", text, x=middle, y=low, text_anchor="middle", class_="axis")
    turned = f"translate(11 {(axes.top + axes.bottom) / 2:.0f}) rotate(-90)"
    text = "relative L2 error"
    add(root, "text", text, transform=turned, text_anchor="middle", class_="axis")


def flops_ticks(most: float) -> list[float]:
    """Return the labelled FLOPs ratios from 1 on, at most eight."""
    step = next(step for step in (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, most) if most - 1 <= 7 * step)
    return [round(1 + index * step, 6) for index in range(int((most - 1) / step + 1e-9) + 1)]


def error_ticks(low: float, high: float) -> list[float]:
    """Return the labelled errors: 1, 2 and 5 times powers of ten, or powers of ten alone."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    digits = (1, 2, 5) if len(powers) < 5 else (1,)
    ticks = [float(f"{digit}e{power}") for power in powers for digit in digits]
    return [tick for tick in ticks if low <= tick <= high]
