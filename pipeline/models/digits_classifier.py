"""Classifier of 8x8 digits for the quality of the shipped model's samples.

Its penultimate activations are the features of FID; its predictions say whether a sample shows the
requested digit.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pipeline.models.folder_documents import ClassifierConfig, read_document
from pipeline.models.weight_files import read_weights, refuse_other_tensors


class DigitClassifier(nn.Module):
    """Convolutional classifier for 8x8 digits in [-1, 1].

    The penultimate layer, of width ``num_features``, is the feature space of FID.
    """

    def __init__(self, num_features: int = 64, num_classes: int = 10) -> None:
        super().__init__()
        self.num_features = num_features
        self.num_classes = num_classes
        self.trunk = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(64 * 4 * 4, num_features),
            nn.ReLU(),
        )
        self.head = nn.Linear(num_features, num_classes)

    def features(self, images: Float[Tensor, "b 1 8 8"]) -> Float[Tensor, "b f"]:
        """Return the penultimate activations of images in [-1, 1]."""
        return self.trunk(images)

    def forward(self, images: Float[Tensor, "b 1 8 8"]) -> Float[Tensor, "b classes"]:
        """Return the class logits of images in [-1, 1]."""
        return self.head(self.features(images))


def save_classifier(classifier: DigitClassifier, folder: Path) -> None:
    """Write ``model.safetensors`` and ``config.json`` into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(classifier.state_dict(), folder / "model.safetensors")
    config = {"num_features": classifier.num_features, "num_classes": classifier.num_classes}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def load_classifier(folder: Path) -> DigitClassifier:
    """Load a classifier that :func:`save_classifier` wrote, in eval mode and without gradients.

    Raises:
        InputError: if the weights do not fit the configuration; nothing of its sizes is built then.
    """
    model = folder.parent.name
    sizes = asdict(read_document(folder / "config.json", ClassifierConfig, model))
    with torch.device("meta"):
        described = DigitClassifier(**sizes)
    refuse_other_tensors(described, read_weights(folder, "model", model), folder, model)
    classifier = DigitClassifier(**sizes)
    classifier.load_state_dict(load_file(folder / "model.safetensors"))
    return classifier.eval().requires_grad_(False)


@torch.no_grad()
def accuracy(
    classifier: DigitClassifier, images: Float[Tensor, "b 1 8 8"], labels: Tensor
) -> float:
    """Return the share of images that the classifier takes for their requested digit, in [0, 1]."""
    return (classifier(images).argmax(dim=1) == labels).float().mean().item()
