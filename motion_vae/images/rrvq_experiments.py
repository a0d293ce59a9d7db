"""RRVQ-VAE: L = 5 against rVQ-VAE, the ablation of its two parts (table G.1), and the models of 32 layers (table 1)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from motionlex.data.images.dataset import ImageData
from motionlex.motion_vae.images.compression import RRVQ_COMPRESSION
from motionlex.motion_vae.images.evaluation import evaluate_images
from motionlex.motion_vae.images.jobs import Experiment, Finished, Job, Options, Report, Result, TrainingJob
from motionlex.motion_vae.images.model_experiments import Row, experiment
from motionlex.motion_vae.images.runs import TrainedImages
from motionlex.motion_vae.images.settings import SETTINGS
from motionlex.motion_vae.images.swatches import RRVQ_SWATCHES
from motionlex.motion_vae.images.tables import BITS, ELBO, PERPLEXITY, PSNR, SSIM, USAGE, Measure

TRAIN_BITS = Measure(key="train_bits_per_dimension", title="bits per dimension, training", digits=3)
PaperBits = Mapping[str, Mapping[str, tuple[float, float]]]
"""Bits per dimension on test and training images, by data set and row."""

ABLATION_BITS: PaperBits = {
    "cifar10": {
        "Direct-Cat, sigma = 1": (5.05, 5.00),
        "Embedding-Cat, sigma = 1": (5.11, 5.06),
        "Direct-Cat, sigma learnt": (5.10, 5.08),
        "Embedding-Cat, sigma learnt (RRVQ)": (4.65, 4.40),
    },
    "svhn": {
        "Direct-Cat, sigma = 1": (3.32, 3.44),
        "Embedding-Cat, sigma = 1": (3.41, 3.51),
        "Embedding-Cat, sigma learnt (RRVQ)": (2.96, 3.02),
    },
}
"""Table G.1; on SVHN the paper's Direct-Cat with sigma learnt was unstable and has no number."""
RRVQ, RVQ = "RRVQ-VAE", "rVQ-VAE"
BASELINE_BITS: PaperBits = {
    "cifar10": {RRVQ: ABLATION_BITS["cifar10"]["Embedding-Cat, sigma learnt (RRVQ)"], RVQ: (4.77, 4.87)},
    "svhn": {RRVQ: ABLATION_BITS["svhn"]["Embedding-Cat, sigma learnt (RRVQ)"], RVQ: (3.73, 4.17)},
    "celeba64": {RVQ: (5.31, 5.31)},
}
"""RRVQ-VAE with L = 5 is from table G.1, which leaves CelebA out, rVQ-VAE from table 1."""
DEEP_BITS: PaperBits = {
    "cifar10": {"RRVQ-VAE, L = 32": (3.94, 3.81), "Spatial-VAE, L = 32": (3.55, 3.49)},
    "svhn": {"RRVQ-VAE, L = 32": (2.30, 2.52), "Spatial-VAE, L = 32": (1.94, 2.07)},
}
"""Table 1."""


@dataclass(frozen=True, kw_only=True)
class TrainingBitsJob(TrainingJob):
    """Train one model, and measure it on training images too."""

    def further(self, trained: TrainedImages, data: ImageData, folder: Path) -> Result:
        """Measure on as many training images, at equal distances in the set, as there are held-out ones."""
        limit = min(self.images or len(data.test), len(data.test))
        found = evaluate_images(
            trained.model, trained.preprocessing, data.train, family=self.recipe.family, limit=limit
        )
        return {TRAIN_BITS.key: found[BITS.key]}


def with_papers(
    name: str,
    summary: str,
    settings: Mapping[str, str],
    rows: Sequence[Row],
    papers: PaperBits,
    notes: Sequence[str],
) -> Experiment:
    """Make an experiment whose table takes the paper's values of whichever of its data sets is used.

    Args:
        name: What the user types.
        summary: One line for listings.
        settings: By data set.
        rows: The models, without values.
        papers: The paper's values by data set; the first is the experiment's own.
        notes: What a reader must know besides.
    """
    variants = {}
    for data, values in papers.items():
        compared = [
            replace(row, paper=dict(zip((BITS.key, TRAIN_BITS.key), values[row.name])) if row.name in values else {})
            for row in rows
        ]
        variants[data] = experiment(
            name,
            summary,
            setting=settings[data],
            data=data,
            rows=compared,
            measures=(BITS, TRAIN_BITS, ELBO, PSNR, SSIM, USAGE, PERPLEXITY),
            notes=(*notes, "Training images: as many as held-out ones, at equal distances in the set"),
            job=TrainingBitsJob,
        )
    own = next(iter(variants.values()))

    def chosen(options: Options) -> Experiment:
        sizes = {data: SETTINGS[setting].domain for data, setting in settings.items()}
        fitting = [data for data, size in sizes.items() if (*size.grid, size.channels) == options.shape]
        return variants.get(options.data, variants[fitting[0]] if fitting else own)

    def jobs(options: Options) -> Sequence[Job]:
        return chosen(options).jobs(options)

    def report(options: Options, finished: Sequence[Finished], folder: Path) -> Report:
        return chosen(options).report(options, finished, folder)

    return replace(own, jobs=jobs, report=report)


RRVQ_TABLE1 = with_papers(
    "rrvq-table1",
    "RRVQ-VAE with L = 5 against rVQ-VAE (CIFAR-10, SVHN, CelebA 64)",
    {"cifar10": "cifar10_rrvq", "svhn": "svhn_rrvq", "celeba64": "celeba64_rrvq"},
    [
        Row(name=RRVQ, slug="rrvq", method="rrvq"),
        Row(
            name=RVQ,
            slug="rvqvae",
            method="rrvq",
            changes=("grid_tokens=256", "variances=unit"),
            tiny_changes=("grid_tokens=16", "variances=unit"),
        ),
    ],
    BASELINE_BITS,
    (
        "The paper's RRVQ-VAE with L = 5 is from its ablation G.1, which leaves CelebA out, its rVQ-VAE from table 1",
        "rVQ-VAE here is RRVQ-VAE with one layer on the finest grid and unit variances; the paper gives no sizes "
        "of its own",
    ),
)

RRVQ_ABLATION = with_papers(
    "rrvq-ablation",
    "RRVQ-VAE, table G.1: how p is given, and whether variances are learnt (CIFAR-10, SVHN)",
    {"cifar10": "cifar10_rrvq", "svhn": "svhn_rrvq"},
    [
        Row(name=name, slug=slug, method="rrvq", changes=(f"prior={prior}", f"variances={variances}"))
        for name, slug, prior, variances in (
            ("Direct-Cat, sigma = 1", "direct_unit", "direct", "unit"),
            ("Embedding-Cat, sigma = 1", "embedding_unit", "responsibilities", "unit"),
            ("Direct-Cat, sigma learnt", "direct_learnt", "direct", "learned"),
            ("Embedding-Cat, sigma learnt (RRVQ)", "rrvq", "responsibilities", "learned"),
        )
    ],
    ABLATION_BITS,
    ("All four are L = 5 (on digits L = 3) with the same networks; Direct-Cat gives p as logits",),
)

TINY_GRIDS = "grid_tokens=16,16,4,4"

RRVQ_DEEP = with_papers(
    "rrvq-deep",
    "RRVQ-VAE, table 1: models of 32 layers (CIFAR-10, SVHN)",
    {"cifar10": "cifar10_rrvq32", "svhn": "svhn_rrvq32"},
    [
        Row(name="RRVQ-VAE, L = 32", slug="rrvq32", method="rrvq", tiny_changes=(TINY_GRIDS,)),
        Row(name="Spatial-VAE, L = 32", slug="spatial_vae32", method="spatial_vae", tiny_changes=(TINY_GRIDS,)),
    ],
    DEEP_BITS,
    (
        "On digits both have 4 layers; Spatial-VAE has a Gaussian where RRVQ-VAE has a code, so that its bits are "
        "those of continuous latents",
    ),
)

RRVQ_EXPERIMENTS = (RRVQ_TABLE1, RRVQ_SWATCHES, RRVQ_COMPRESSION, RRVQ_ABLATION, RRVQ_DEEP)
"""In the order of listings."""
