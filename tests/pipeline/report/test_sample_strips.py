"""Strips of samples: reference above method above difference, at a stated amplification."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from pipeline.report.rows import ReportRow
from pipeline.report.sample_strips import COLUMNS, GAP, amplification, sample_strips
from tests.pipeline.report.made_up_results import Point, learned

ROW = ReportRow.of(learned(2.0, 0.01))


def picture(strip):
    data = strip.uri.removeprefix("data:image/png;base64,")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


@pytest.mark.parametrize(("side", "shown"), [(8, 48), (64, 64), (256, 128)])
@pytest.mark.parametrize("channels", [1, 3])
def test_rows_hold_reference_method_and_amplified_difference(side, shown, channels):
    reference = np.full((10, side, side, channels), 0.4)
    mine = np.full_like(reference, 0.45)
    (strip,) = sample_strips([(ROW, Point(row={}, images=mine, reference_images=reference))])
    values = picture(strip)
    assert values.shape[:2] == (strip.height, strip.width)
    assert strip.height == 3 * shown + 2 * GAP
    assert strip.width == COLUMNS * shown + (COLUMNS - 1) * GAP
    assert strip.factor in (15, 20)  # 0.45 - 0.4 rounds to one side or the other of 1 / 20
    middle = [values[row * (shown + GAP) + shown // 2, shown // 2].max() for row in range(3)]
    assert middle == [102, 115, round(0.05 * strip.factor * 255)]


def test_small_images_are_enlarged_pixel_by_pixel():
    images = np.zeros((1, 8, 8, 1))
    images[0, 0, 0] = 1.0
    (strip,) = sample_strips([(ROW, Point(row={}, images=images, reference_images=images))])
    values = picture(strip)
    assert (values[:6, :6] == 255).all()
    assert set(np.unique(values[:48, :48])) == {0, 255}


def test_one_factor_serves_all_strips():
    assert amplification([np.full((1, 2, 2, 1), 0.01), np.full((1, 2, 2, 1), 0.19)]) == 5
    assert amplification([np.full((1, 2, 2, 1), 3.0)]) == 1
    assert amplification([]) == 1
