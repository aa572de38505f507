"""The checkpoint `vision`: which digit is written here? A small vision transformer (ViT) trained from scratch.

    python -m utils.recipes.vision        # about two minutes on two CPU cores

The 1,797 digits of 8 by 8 pixels come with scikit-learn (UCI, CC BY 4.0: https://archive.ics.uci.edu/dataset/80). Every fifth
one measures. An image is cut into 16 patches of 2 by 2 pixels, which are to the encoder what tokens are.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    default_data_collator,
)
from transformers import ViTImageProcessorPil as ViTImageProcessor

from utils.recipes.training import Result, fit, options, save_model

NAME = "vision"
HELD_OUT = 5
EPOCHS = 200


def images(held_out: bool) -> tuple[list[Image.Image], list[int]]:
    """Grey images of 8 by 8 pixels, ink bright on dark, and their digits."""
    digits = load_digits()
    chosen = (np.arange(len(digits.target)) % HELD_OUT == 0) == held_out
    pixels = (digits.images[chosen] * 255 / 16).round().astype(np.uint8)
    return [Image.fromarray(image) for image in pixels], digits.target[chosen].tolist()


def shifted(pixels: torch.Tensor) -> torch.Tensor:
    """The same images, each moved by up to one pixel: (batch, channels, 8, 8). A digit stays a digit."""
    padded = torch.nn.functional.pad(pixels, (1, 1, 1, 1), value=-1.0)
    down, right = torch.randint(0, 3, (2, len(pixels))).tolist()
    return torch.stack([image[:, d : d + 8, r : r + 8] for image, d, r in zip(padded, down, right, strict=True)])


def main() -> None:
    arguments = options(__doc__, NAME, needs_data=False)
    processor = ViTImageProcessor(size={"height": 8, "width": 8}, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    model = ViTForImageClassification(
        ViTConfig(
            image_size=8,
            patch_size=2,
            num_channels=3,
            hidden_size=64,
            num_hidden_layers=4,
            num_attention_heads=4,
            intermediate_size=128,
            hidden_dropout_prob=0.1,
            num_labels=10,
            id2label={i: str(i) for i in range(10)},
            label2id={str(i): i for i in range(10)},
        )
    )
    pictures, labels = images(held_out=False)
    pixels = processor([picture.convert("RGB") for picture in pictures], return_tensors="pt")["pixel_values"]
    rows = [{"pixel_values": image, "labels": label} for image, label in zip(pixels, labels, strict=True)]

    def collate(batch: list[dict]) -> dict:
        stacked = default_data_collator(batch)
        return stacked | {"pixel_values": shifted(stacked["pixel_values"])}

    fit(model, rows, collate, NAME, epochs=EPOCHS, learning_rate=2e-3, batch_size=64)
    save_model(model, processor, arguments.output)


@torch.inference_mode()
def results(path: str, data: Path | None) -> list[Result]:
    """Accuracy on the fifth of the digits that was kept apart."""
    processor = AutoImageProcessor.from_pretrained(path)
    model = AutoModelForImageClassification.from_pretrained(path).eval()
    pictures, labels = images(held_out=True)
    batch = processor([picture.convert("RGB") for picture in pictures], return_tensors="pt")
    predicted = model(**batch).logits.argmax(-1)
    accuracy = 100 * (predicted == torch.tensor(labels)).float().mean().item()
    return [(f"held-out digits, {len(labels)}, accuracy, %", accuracy)]


if __name__ == "__main__":
    main()
