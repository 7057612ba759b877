"""scikit-learn's 1,797 handwritten digits, as the model and the FID reference see them."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from sklearn.datasets import load_digits
from torch import Tensor


def load_digit_images() -> tuple[Float[Tensor, "b 1 8 8"], Int[Tensor, " b"]]:
    """Images in [-1, 1] and their labels."""
    digits: Any = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 8.0 - 1.0
    return images, torch.tensor(digits.target, dtype=torch.long)
