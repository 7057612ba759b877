"""The 1,797 handwritten digits of scikit-learn, scaled for the model and for FID."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from sklearn.datasets import load_digits
from torch import Tensor


def load_digit_images() -> tuple[Float[Tensor, "b 1 8 8"], Int[Tensor, " b"]]:
    """Return the images, scaled to [-1, 1], and their labels."""
    digits: Any = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 8.0 - 1.0
    return images, torch.tensor(digits.target, dtype=torch.long)
