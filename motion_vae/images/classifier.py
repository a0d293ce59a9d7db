"""A small convolutional classifier of images, which judges label-conditioned samples."""

import torch
import torch.nn.functional as functional
from jaxtyping import Float, Int
from torch import Tensor, nn

from motionlex.data.images.collection import Images
from motionlex.data.images.preprocessing import Preprocessing
from motionlex.data.images.source import ImageSource
from motionlex.motion_vae.images.progress import Progress

CHANNELS, HIDDEN, KERNEL = (16, 32), 64, 3
BATCH, LEARNING_RATE = 128, 2e-3
"""Images per step, and the rate of AdamW."""


class ImageClassifier(nn.Module):
    """Two convolutions, each with a ReLU and a maximum over 2 x 2, and two dense layers.

    Args:
        grid: Rows and columns, at least 4 each.
        channels: Colours.
        classes: Number of labels.
    """

    def __init__(self, grid: tuple[int, int], channels: int, classes: int) -> None:
        super().__init__()
        self.grid = grid
        first, second = CHANNELS
        self.convolutions = nn.Sequential(
            nn.Conv2d(channels, first, KERNEL, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(first, second, KERNEL, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        )  # fmt: skip
        self.hidden = nn.Linear(second * (grid[0] // 4) * (grid[1] // 4), HIDDEN)
        self.output = nn.Linear(HIDDEN, classes)

    def forward(self, x: Float[Tensor, "batch pixel colour"]) -> Float[Tensor, "batch class"]:
        """Logits of the classes for images in [0, 1]."""
        images = x.transpose(1, 2).unflatten(2, self.grid)
        return self.output(torch.relu(self.hidden(self.convolutions(images).flatten(1))))


def fit_classifier(
    classifier: ImageClassifier, images: Images, preprocessing: Preprocessing, *, steps: int, seed: int
) -> None:
    """Train a classifier in place, on what an autoencoder sees, brought to [0, 1].

    Args:
        classifier: On its device.
        images: The training split.
        preprocessing: That of the autoencoder.
        steps: Batches of 128 images.
        seed: Of the order of the images and of drawn pixels.
    """
    device = next(classifier.parameters()).device
    source, generator = ImageSource(images, preprocessing, seed=seed), torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(classifier.parameters(), lr=LEARNING_RATE)
    progress = Progress("classifier", steps)
    classifier.train()
    for step in range(steps):
        x, labels = source.sample_with_labels(BATCH, generator)
        loss = functional.cross_entropy(classifier(preprocessing.to_unit(x).to(device)), labels.long().to(device))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        progress.done(step + 1, lambda loss=loss: f"{loss.item():.3f} nat")
    classifier.eval()


def hits(logits: Float[Tensor, "image class"], labels: Int[Tensor, " image"]) -> Float[Tensor, " image"]:
    """1 where the likeliest class is the label, else 0, in float64 so that their mean is exact."""
    return (logits.argmax(dim=1) == labels).double()
