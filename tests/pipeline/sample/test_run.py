"""Folder of a sampling run, with made-up images."""

import numpy as np
import pytest
import torch
from PIL import Image

from dqar.control.summary import summarize
from dqar.gate_table import GateTable
from pipeline.sample.run import write_samples
from pipeline.sample.sample import Sampled


def sampled(images):
    """Samples with these images, and the same images as reference samples."""
    return Sampled(
        class_labels=[0] * len(images),
        images=images,
        reference_images=images,
        latent_rel_l2=[0.0] * len(images),
        seconds_per_sample=1.0,
        reference_seconds_per_sample=1.0,
        summary=summarize([], GateTable.regular(("attn",), 1), 0),
    )


def test_colour_images_keep_their_channels(tmp_path):
    images = torch.zeros(2, 3, 4, 6)
    images[:, 0] = 1.0
    images[:, 1] = -1.0
    write_samples(sampled(images), {}, tmp_path)
    for path in (tmp_path / "images").iterdir():
        pixels = np.asarray(Image.open(path))
        assert pixels.shape == (4, 6, 3)
        assert pixels[0, 0].tolist() == [255, 0, 128]


def test_a_rewrite_cut_short_leaves_no_sample_json(tmp_path):
    images = torch.zeros(1, 1, 8, 8)
    write_samples(sampled(images), {}, tmp_path)
    assert (tmp_path / "sample.json").exists()
    (tmp_path / "samples.png").unlink()
    (tmp_path / "samples.png").mkdir()
    with pytest.raises(IsADirectoryError):
        write_samples(sampled(images), {}, tmp_path)
    assert not (tmp_path / "sample.json").exists()
