"""GM-VQ: its table 1 on both data sets, and the sweep over the entropy term (figure 4)."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from motionlex.motion_vae.images.jobs import Experiment, Finished, Options
from motionlex.motion_vae.images.model_experiments import Row, experiment
from motionlex.motion_vae.images.tables import (
    BATCH_PERPLEXITY,
    MSE,
    PERPLEXITY,
    POSTERIOR_PERPLEXITY,
    PSNR,
    SSIM,
    USAGE,
    by_row,
)

BETAS = (0.0, 1.0, 2.0, 5.0, 10.0)
"""Weights of the KL of the aggregated posterior, which holds its entropy; the paper does not give its own."""
ENTROPY_BETA = 5.0
"""Of the row GM-VQ + Entropy; the paper only says that it is above 1."""
PER_BATCH = (
    "Per batch: of 256 images, averaged over batches. That of q(c|x), averaged over images and tokens, is the paper's; "
    "that of the codes counts the most probable ones, which are decoded. Perplexity and usage: codes of all images"
)
Column = Mapping[str, tuple[float, float]]
"""The paper's MSE x 1e3 and perplexity by name of the row's folder."""
CIFAR10: Column = {
    "vqvae": (5.65, 14.0),
    "vqvae_l2": (3.21, 57.0),
    "vqvae_replace": (4.07, 109.8),
    "vqvae_l2_replace": (3.24, 115.6),
    "vqvae_affine": (5.15, 69.5),
    "vqvae_opt": (4.73, 15.5),
    "vqvae_affine_opt": (4.00, 79.3),
    "sq_vae": (3.36, 769.3),
    "gumbel_vqvae": (6.16, 20.3),
    "gm_vq": (3.13, 731.9),
    "gm_vq_entropy": (3.11, 878.7),
}
CELEBA: Column = {
    "vqvae": (10.02, 16.2),
    "vqvae_l2": (6.49, 188.7),
    "vqvae_replace": (4.77, 676.4),
    "vqvae_l2_replace": (4.93, 861.7),
    "vqvae_affine": (7.47, 112.6),
    "vqvae_opt": (7.78, 30.5),
    "vqvae_affine_opt": (6.60, 186.6),
    "sq_vae": (9.17, 769.1),
    "gumbel_vqvae": (7.34, 96.7),
    "gm_vq": (1.38, 338.6),
    "gm_vq_entropy": (0.97, 831.0),
}
L2, REPLACE, AFFINE, OPT = "l2_normalise=true", "replace_dead=rare", "affine=true", "alternate=true"
GRADIENT = "codebook_update=gradient"
"""What affine maps and alternation need; the built-in digits begin with a moving average."""
MAIN_ROWS = (
    ("GM-VQ", "gm_vq", "gm_vq", ()),
    ("VQ-VAE", "vqvae", "vqvae", ()),
    ("Gumbel-VQVAE", "gumbel_vqvae", "gumbel_vqvae", ()),
)
VARIANT_ROWS = (
    ("VQ-VAE + l2", "vqvae_l2", "vqvae", (L2,)),
    ("VQ-VAE + replace", "vqvae_replace", "vqvae", (REPLACE,)),
    ("VQ-VAE + l2 + replace", "vqvae_l2_replace", "vqvae", (L2, REPLACE)),
    ("VQ-VAE + Affine", "vqvae_affine", "vqvae", (GRADIENT, AFFINE)),
    ("VQ-VAE + OPT", "vqvae_opt", "vqvae", (GRADIENT, OPT)),
    ("VQ-VAE + Affine + OPT", "vqvae_affine_opt", "vqvae", (GRADIENT, AFFINE, OPT)),
    ("SQ-VAE", "sq_vae", "sq_vae", ()),
    ("GM-VQ + Entropy", "gm_vq_entropy", "gm_vq", (f"beta={ENTROPY_BETA:g}",)),
)
"""Name in the table, name of the folder, method, and changes of its recipe."""
MEASURES = (MSE, POSTERIOR_PERPLEXITY, BATCH_PERPLEXITY, PERPLEXITY, USAGE, PSNR, SSIM)
DEEPER = (
    "The paper gives neither the sizes of its deeper network for CelebA nor how faces are cut: both are our reading"
)


def _table(
    name: str,
    summary: str,
    listed: Sequence[tuple[str, str, str, tuple[str, ...]]],
    column: Column,
    data: str,
    notes: tuple[str, ...],
) -> Experiment:
    """One column of the paper's table 1, some of its rows."""
    keys = (MSE.key, POSTERIOR_PERPLEXITY.key)
    rows = [
        Row(name=row, slug=slug, method=method, changes=changes, paper=dict(zip(keys, column[slug])))
        for row, slug, method, changes in listed
    ]
    setting = "cifar10_gm_vq" if data == "cifar10" else "celeba128_gm_vq"
    return experiment(name, summary, setting=setting, data=data, rows=rows, measures=MEASURES, notes=notes)


def _tables(suffix: str, title: str, column: Column, data: str, further: tuple[str, ...]) -> tuple[Experiment, ...]:
    main = _table(f"gm-vq-table1{suffix}", f"GM-VQ, table 1 ({title})", MAIN_ROWS, column, data, (PER_BATCH, *further))
    notes = (
        PER_BATCH,
        f"The other rows of the paper's table, GM-VQ, VQ-VAE and Gumbel-VQVAE, are those of {main.name}",
        "Replace: codes with a small running count become vectors of the batch; OPT: the codebook is updated alone "
        f"before the networks; GM-VQ + Entropy: beta = {ENTROPY_BETA:g}, since the paper does not give its own",
        *further,
    )
    summary = f"GM-VQ, table 1: the remedies of VQ-VAE, SQ-VAE, GM-VQ + Entropy ({title})"
    return main, _table(f"gm-vq-variants{suffix}", summary, VARIANT_ROWS, column, data, notes)


GM_VQ_TABLE1, GM_VQ_VARIANTS = _tables("", "CIFAR-10", CIFAR10, "cifar10", ())
GM_VQ_TABLE1_CELEBA, GM_VQ_VARIANTS_CELEBA = _tables("-celeba", "CelebA 128", CELEBA, "celeba128", (DEEPER,))


def _draw_boxes(options: Options, finished: Sequence[Finished], folder: Path) -> list[Path]:
    """Draw figure 4: a box over seeds for each weight."""
    from matplotlib.figure import Figure  # slow to import and wanted only here

    from motionlex.motion_vae import figures

    groups = by_row(finished)
    figure = Figure(figsize=(9.0, 3.6), dpi=figures.DPI, layout="constrained")
    for axes, measure in zip(figure.subplots(1, 2), (MSE, POSTERIOR_PERPLEXITY)):
        axes.boxplot([[one.result[measure.key] for one in group] for group in groups.values()])
        axes.set_xticks(range(1, len(groups) + 1), list(groups))
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
    measures=(MSE, POSTERIOR_PERPLEXITY, BATCH_PERPLEXITY, PERPLEXITY, USAGE, PSNR),
    notes=(
        PER_BATCH,
        "Beta weighs the KL of the aggregated posterior from the uniform one, i.e. ln K less its entropy; the paper "
        "shows box plots over unnamed levels, and no numbers: give --seeds for boxes",
    ),
    draw=_draw_boxes,
)

GM_VQ_EXPERIMENTS = (
    GM_VQ_TABLE1,
    GM_VQ_TABLE1_CELEBA,
    GM_VQ_VARIANTS,
    GM_VQ_VARIANTS_CELEBA,
    GM_VQ_ENTROPY,
)
"""In the order of listings."""
