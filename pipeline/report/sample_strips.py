"""Pictures of samples: the reference above the method above their difference, as PNG data URIs."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray

from pipeline.report.rows import ReportRow

COLUMNS = 8
"""Most samples of a strip."""
SMALL, LARGE = 48, 128
"""Least and largest side of an image in a strip, in pixels."""
GAP = 3
"""White pixels between two images."""
FACTORS = (1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100)
"""Factors by which a difference may be amplified."""

Images = Float[ndarray, "b height width channels"]


@runtime_checkable
class Pictured(Protocol):
    """Operating point with the images of its first samples."""

    @property
    def images(self) -> Images:
        """Images in [0, 1]."""
        ...

    @property
    def reference_images(self) -> Images:
        """Images of the reference samples from the same noise."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleStrip:
    """Picture of three rows: reference samples, samples of a method, amplified difference."""

    row: ReportRow
    """Operating point."""
    uri: str
    """PNG of the three rows as a data URI."""
    width: int
    height: int
    factor: int
    """Factor of the difference, the same for all strips that are compared."""


def sample_strips(points: Sequence[tuple[ReportRow, Pictured]]) -> list[SampleStrip]:
    """Return a strip for each point, all differences amplified by one factor."""
    pairs = [(row, one.reference_images[:COLUMNS], one.images[:COLUMNS]) for row, one in points]
    factor = amplification([np.abs(mine - reference) for _, reference, mine in pairs])
    return [_strip(row, reference, mine, factor) for row, reference, mine in pairs]


def amplification(differences: Sequence[Images]) -> int:
    """Return the largest of :data:`FACTORS` that shows 99% of the differences unclipped."""
    most = max((float(np.quantile(one, 0.99)) for one in differences), default=1.0)
    return max((factor for factor in FACTORS if factor * most <= 1.0), default=1)


def _strip(row: ReportRow, reference: Images, mine: Images, factor: int) -> SampleStrip:
    difference = np.clip(np.abs(mine - reference) * factor, 0.0, 1.0)
    picture = _stack([_side_by_side(_resized(one)) for one in (reference, mine, difference)])
    return SampleStrip(
        row=row,
        uri=_data_uri(picture),
        width=picture.shape[1],
        height=picture.shape[0],
        factor=factor,
    )


def _resized(images: Images) -> Float[ndarray, "b _ _ channels"]:
    """Enlarge small images by repeating pixels, and reduce large ones by averaging blocks."""
    side = max(images.shape[1:3])
    if side < SMALL:
        times = -(-SMALL // side)
        return images.repeat(times, axis=1).repeat(times, axis=2)
    by = -(-side // LARGE)
    count, height, width, channels = images.shape
    kept = images[:, : height // by * by, : width // by * by]
    return kept.reshape(count, height // by, by, width // by, by, channels).mean(axis=(2, 4))


def _side_by_side(images: Images) -> Float[ndarray, "height _ channels"]:
    gap = np.ones((images.shape[1], GAP, images.shape[3]))
    beside = [part for one in images for part in (one, gap)]
    return np.concatenate(beside[:-1], axis=1)


def _stack(strips: Sequence[Float[ndarray, "_ width channels"]]) -> UInt8[ndarray, "_ _ _"]:
    gap = np.ones((GAP, *strips[0].shape[1:]))
    below = [part for one in strips for part in (one, gap)]
    picture = np.concatenate(below[:-1], axis=0)
    return (np.clip(np.nan_to_num(picture), 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)


def _data_uri(picture: UInt8[ndarray, "height width channels"]) -> str:
    from PIL import Image

    stored = io.BytesIO()
    Image.fromarray(picture.squeeze(-1) if picture.shape[-1] == 1 else picture).save(stored, "PNG")
    return "data:image/png;base64," + base64.b64encode(stored.getvalue()).decode()
