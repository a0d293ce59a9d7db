"""How far reconstructions of colour images are from the originals in the features of a network, beside other measures.

KID and the Frechet distance with the features of EfficientNet-lite0, where they are installed, compare within a table
only. FID, which the papers report, and KID proper need the weights of Inception, which are not shipped.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from motionlex.data.errors import UserError
from motionlex.data.images.collection import Images
from motionlex.data.images.dataset import ImageData
from motionlex.data.images.source import in_order
from motionlex.motion_vae.images.features import FeatureDistance, compare, extract, load_features
from motionlex.motion_vae.images.jobs import Experiment, Job, Options, Result, TrainingJob
from motionlex.motion_vae.images.runs import TrainedImages
from motionlex.motion_vae.images.tables import Measure

logger = logging.getLogger(__name__)
FEATURES, COLOURS = "efflite0", 3
MOST_IMAGES, FEWEST_IMAGES, BATCH = 2_000, 4, 64
"""Images of a distance at most, since features cost more than the autoencoder on a CPU; at least, for two blocks of two
in KID; and at once."""
KID = Measure(key="kid_efflite0", title="KID-EffLite0", digits=4)
KID_ERROR = Measure(key="kid_efflite0_error", title="its standard error", digits=4)
FRECHET = Measure(key="fd_efflite0", title="FD-EffLite0", digits=2)
INCEPTION_KID = Measure(key="kid", title="KID", digits=5)
INCEPTION_KID_ERROR = Measure(key="kid_error", title="standard error of KID", digits=5)
FID = Measure(key="fid", title="FID", digits=2)
OFFLINE, PROPER = (KID, KID_ERROR, FRECHET), (INCEPTION_KID, INCEPTION_KID_ERROR, FID)
"""Of EfficientNet-lite0, and of Inception; in the order of what to trust with few images."""
DISTANCES = (*OFFLINE, *PROPER)
NOTES = (
    f"KID-EffLite0 and FD-EffLite0: kernel and Frechet distance of at most {MOST_IMAGES:,} reconstructions to their "
    "originals in the features of EfficientNet-lite0, for colour images and where these are installed; they are no FID "
    "and compare within this table only",
    "KID and FID: the same in the features of Inception, of all held-out images that are measured; they need "
    "--inception with its weights",
    "The Frechet distances of few images are biased upwards and compare at one number of images only, below 2,048 they "
    "are of singular covariances too: lead with KID, whose standard error is between blocks of images",
)


@dataclass(frozen=True, kw_only=True)
class DistanceJob(TrainingJob):
    """Train, measure, and compare the features of reconstructions and originals."""

    inception: str | None = None
    """File of Inception's weights; None goes without FID."""

    def further(self, trained: TrainedImages, data: ImageData, folder: Path) -> Result:
        """Measure the distances; None for grey images, for fewer than four, and without packages or weights."""
        found: dict[str, float | int | None] = {measure.key: None for measure in DISTANCES}
        if data.shape[2] != COLOURS:
            return found
        count = len(data.test) if self.images is None else min(self.images, len(data.test))
        if count < FEWEST_IMAGES:
            logger.warning(f"no {KID.title}: it needs at least {FEWEST_IMAGES} images, and --images leaves {count}")
            return found
        try:
            network = load_features(FEATURES)
        except UserError as error:
            logger.warning(f"no {KID.title}: {error}")
        else:
            offline = self._distance(FEATURES, network, trained, data, min(MOST_IMAGES, count))
            found |= _values(OFFLINE, offline) | {"efflite0_images": offline.images}
        if self.inception is not None:
            proper = self._distance("inception", load_features("inception", Path(self.inception)), trained, data, count)
            found |= _values(PROPER, proper) | {"fid_images": proper.images}
        return found

    def _distance(
        self, name: str, network: nn.Module, trained: TrainedImages, data: ImageData, limit: int
    ) -> FeatureDistance:
        """Compare so many held-out images with what the model makes of them."""
        device = next(trained.model.parameters()).device
        original, decoded = (
            extract(
                network,
                shown(trained, data.test, reconstruct=which, limit=limit, seed=self.seed),
                data.shape[:2],
                device=device,
            )
            for which in (False, True)
        )
        return compare(name, decoded, original, seed=self.seed)


def with_inception(experiment: Experiment) -> Experiment:
    """Hand the weights that the user gives to every job of an experiment of distances."""

    def jobs(options: Options) -> Sequence[Job]:
        return tuple(
            replace(job, inception=options.inception) if isinstance(job, DistanceJob) else job
            for job in experiment.jobs(options)
        )

    return replace(experiment, jobs=jobs)


def _values(measures: Sequence[Measure], distance: FeatureDistance) -> dict[str, float]:
    """Name KID, its standard error and the Frechet distance of a network."""
    numbers = (distance.kernel, distance.kernel_error, distance.frechet)
    return {measure.key: number for measure, number in zip(measures, numbers, strict=True)}


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
