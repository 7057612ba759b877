"""Models in benchmarks/models: loadable, small, and with the weights of their provenance."""

import hashlib
import json
from pathlib import Path

import pytest

from pipeline.models.model_info import find_model

MODELS = Path(__file__).parents[2] / "benchmarks" / "models"
LARGEST = 3 * 2**20
"""Largest number of bytes of a model's folder."""


@pytest.mark.parametrize(
    ("name", "layers", "width"), [("digits-cosine-6x80", 6, 80), ("digits-linear-10x64", 10, 64)]
)
def test_a_model_is_the_one_that_its_provenance_names(name, layers, width):
    info = find_model(str(MODELS / name))
    assert (info.num_layers, info.width, info.guidance_scale) == (layers, width, 2.0)
    provenance = json.loads((MODELS / name / "provenance.json").read_text())
    weights = MODELS / name / "transformer" / "diffusion_pytorch_model.safetensors"
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert digest == provenance["transformer_sha256"]
    files = [path for path in (MODELS / name).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= LARGEST
