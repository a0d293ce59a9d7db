"""GM-VQ: the other rows of its table 1, and the sweep over the entropy term (figure 4)."""

from collections.abc import Sequence
from pathlib import Path

from motionlex.motion_vae.images.jobs import Finished, Options
from motionlex.motion_vae.images.model_experiments import Row, experiment
from motionlex.motion_vae.images.tables import BATCH_PERPLEXITY, MSE, PERPLEXITY, PSNR, SSIM, USAGE, by_row

BETAS = (0.0, 1.0, 2.0, 5.0, 10.0)
"""Weights of the KL of the aggregated posterior, which holds its entropy; the paper does not give its own."""
ENTROPY_BETA = 5.0
"""Of the row GM-VQ + Entropy; the paper only says that it is above 1."""
PER_BATCH = "Perplexity per batch: of 256 images, averaged over batches, as in the paper; perplexity and usage: of all"


def _paper(mse: float, perplexity: float) -> dict[str, float]:
    return {"mse_1e3": mse, "perplexity_per_batch": perplexity}


def _variant(name: str, slug: str, changes: tuple[str, ...], mse: float, perplexity: float) -> Row:
    return Row(
        name=f"VQ-VAE + {name}", slug=f"vqvae_{slug}", method="vqvae", changes=changes, paper=_paper(mse, perplexity)
    )


L2, REPLACE, AFFINE, OPT = "l2_normalise=true", "replace_dead=rare", "affine=true", "alternate=true"
GRADIENT = "codebook_update=gradient"
"""What affine maps and alternation need; the built-in digits begin with a moving average."""

GM_VQ_VARIANTS = experiment(
    "gm-vq-variants",
    "GM-VQ, table 1: the remedies of VQ-VAE, SQ-VAE, GM-VQ + Entropy (CIFAR-10)",
    setting="cifar10_gm_vq",
    data="cifar10",
    rows=(
        _variant("l2", "l2", (L2,), 3.21, 57.0),
        _variant("replace", "replace", (REPLACE,), 4.07, 109.8),
        _variant("l2 + replace", "l2_replace", (L2, REPLACE), 3.24, 115.6),
        _variant("Affine", "affine", (GRADIENT, AFFINE), 5.15, 69.5),
        _variant("OPT", "opt", (GRADIENT, OPT), 4.73, 15.5),
        _variant("Affine + OPT", "affine_opt", (GRADIENT, AFFINE, OPT), 4.00, 79.3),
        Row(name="SQ-VAE", slug="sq_vae", method="sq_vae", paper=_paper(3.36, 769.3)),
        Row(
            name="GM-VQ + Entropy",
            slug="gm_vq_entropy",
            method="gm_vq",
            changes=(f"beta={ENTROPY_BETA:g}",),
            paper=_paper(3.11, 878.7),
        ),
    ),
    measures=(MSE, BATCH_PERPLEXITY, PERPLEXITY, USAGE, PSNR, SSIM),
    notes=(
        PER_BATCH,
        "The other rows of the paper's table, GM-VQ, VQ-VAE and Gumbel-VQVAE, are those of gm-vq-table1",
        "Replace: codes with a small running count become vectors of the batch; OPT: the codebook is updated alone "
        f"before the networks; GM-VQ + Entropy: beta = {ENTROPY_BETA:g}, since the paper does not give its own",
    ),
)


def _draw_boxes(options: Options, finished: Sequence[Finished], folder: Path) -> list[Path]:
    """Draw figure 4: a box over seeds for each weight."""
    from matplotlib.figure import Figure  # slow to import and wanted only here

    from motionlex.motion_vae import figures

    groups = by_row(finished)
    figure = Figure(figsize=(9.0, 3.6), dpi=figures.DPI, layout="constrained")
    for axes, measure in zip(figure.subplots(1, 2), (MSE, BATCH_PERPLEXITY)):
        axes.boxplot([[one.result[measure.key] for one in group] for group in groups.values()])
        axes.set_xticks(range(1, len(groups) + 1), [f"{beta:g}" for beta in BETAS])
        axes.set_xlabel("beta")
        axes.set_ylabel(measure.title)
        axes.grid(alpha=0.3)
    figure.suptitle(f"{options.title}: boxes over {len(options.seeds)} seeds", fontsize=10)
    return [figures.save(figure, folder / "entropy_boxes.png")]


GM_VQ_ENTROPY = experiment(
    "gm-vq-entropy",
    "GM-VQ, figure 4: error and perplexity over the weight of the entropy (CIFAR-10)",
    setting="cifar10_gm_vq",
    data="cifar10",
    rows=[
        Row(name=f"beta = {beta:g}", slug=f"beta{beta:g}", method="gm_vq", changes=(f"beta={beta:g}",))
        for beta in BETAS
    ],
    measures=(MSE, BATCH_PERPLEXITY, PERPLEXITY, USAGE, PSNR),
    notes=(
        PER_BATCH,
        "Beta weighs the KL of the aggregated posterior from the uniform one, i.e. ln K less its entropy; the paper "
        "shows box plots over unnamed levels, and no numbers: give --seeds for boxes",
    ),
    draw=_draw_boxes,
)

GM_VQ_EXPERIMENTS = (GM_VQ_VARIANTS, GM_VQ_ENTROPY)
"""What remains of GM-VQ beside its table 1 and figure 3."""
