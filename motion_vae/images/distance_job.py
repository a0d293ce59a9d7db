"""How far reconstructions of colour images are from the originals in the features of a network, beside other measures.

The papers report FID with Inception's features, whose weights are not shipped. KID with the features of
EfficientNet-lite0, where they are installed, stands in for it; it compares within a table only.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from motionlex.data.errors import UserError
from motionlex.data.images.collection import Images
from motionlex.data.images.dataset import ImageData
from motionlex.data.images.source import in_order
from motionlex.motion_vae.images.features import compare, extract, load_features
from motionlex.motion_vae.images.jobs import Result, TrainingJob
from motionlex.motion_vae.images.runs import TrainedImages
from motionlex.motion_vae.images.tables import Measure

logger = logging.getLogger(__name__)
FEATURES, COLOURS = "efflite0", 3
MOST_IMAGES, BATCH = 2_000, 64
"""Images of a distance at most, since features cost more than the autoencoder on a CPU; and at once."""
KID = Measure(key="kid_efflite0", title="KID-EffLite0", digits=4)
KID_NOTE = (
    f"KID-EffLite0: kernel distance of at most {MOST_IMAGES:,} reconstructions to their originals in the features of "
    "EfficientNet-lite0, for colour images and where these are installed; it is no FID and compares within this table "
    "only"
)


@dataclass(frozen=True, kw_only=True)
class DistanceJob(TrainingJob):
    """Train, measure, and compare the features of reconstructions and originals."""

    def further(self, trained: TrainedImages, data: ImageData, folder: Path) -> Result:
        """Measure the distance; None for grey images, and without the optional packages."""
        if data.shape[2] != COLOURS:
            return {KID.key: None}
        try:
            network = load_features(FEATURES)
        except UserError as error:
            logger.warning(f"no {KID.title}: {error}")
            return {KID.key: None}
        limit = min(MOST_IMAGES, len(data.test) if self.images is None else self.images)
        device = next(trained.model.parameters()).device
        grid = data.shape[:2]
        original, decoded = (
            extract(
                network, shown(trained, data.test, reconstruct=which, limit=limit, seed=self.seed), grid, device=device
            )
            for which in (False, True)
        )
        return {KID.key: compare(FEATURES, decoded, original, seed=self.seed).kernel}


@torch.no_grad()
def shown(
    trained: TrainedImages, images: Images, *, reconstruct: bool, limit: int, seed: int
) -> Iterator[Float[Tensor, "batch pixel colour"]]:
    """Go through held-out images as a model saw them, or through the means of p(x|z), both in [0, 1].

    Args:
        trained: The autoencoder.
        images: The split.
        reconstruct: Whether to pass the images through the model.
        limit: Stop after so many.
        seed: Of the codes and of drawn pixels.
    """
    model = trained.model
    device = next(model.parameters()).device
    pixels, draws = torch.Generator().manual_seed(seed), torch.Generator(device=device).manual_seed(seed + 1)
    for x, _ in in_order(images, trained.preprocessing, batch=BATCH, limit=limit, generator=pixels):
        seen = x.to(device)
        yield trained.preprocessing.to_unit(model.decode(model.encode(seen, draws)).mean if reconstruct else seen)
