"""How reconstructions get better with the size of the bottleneck (DAPS, figures 12 and 13)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from motionlex.motion_vae.images.jobs import Experiment, Finished, Options
from motionlex.motion_vae.images.model_experiments import TINY, Row, experiment
from motionlex.motion_vae.images.tables import BETA_ELBO, KL, PERPLEXITY, PSNR, USAGE, Measure, by_row
from motionlex.motion_vae.metrics import student_interval

BITS = Measure(key="bits_per_segment", title="bits", digits=0)
METHODS = {"daps": "DAPS", "vqvae": "VQ-VAE", "gumbel": "Gumbel"}
"""Left panels of the figures: DAPS and VQ-VAE; right panels: DAPS and Gumbel."""


@dataclass(frozen=True, kw_only=True)
class Bottleneck:
    """Tokens B and codes V of one size."""

    name: str
    """What the paper calls it."""
    tokens: int
    """B."""
    codes: int
    """V."""
    setting: str
    """Setting with so many tokens."""
    tiny_codes: int
    """V on the built-in digits."""
    tiny_setting: str
    """Setting there."""


MNIST_SIZES = (
    Bottleneck(name="tiny", tokens=4, codes=4, setting="mnist_4", tiny_codes=4, tiny_setting="tiny_4"),
    Bottleneck(name="small", tokens=4, codes=16, setting="mnist_4", tiny_codes=16, tiny_setting="tiny_4"),
    Bottleneck(name="medium", tokens=8, codes=16, setting="mnist", tiny_codes=4, tiny_setting=TINY),
    Bottleneck(name="large", tokens=8, codes=256, setting="mnist", tiny_codes=16, tiny_setting=TINY),
)
CIFAR10_SIZES = (
    Bottleneck(name="tiny", tokens=4, codes=512, setting="cifar10_4", tiny_codes=4, tiny_setting="tiny_4"),
    Bottleneck(name="small", tokens=16, codes=512, setting="cifar10_16", tiny_codes=16, tiny_setting="tiny_4"),
    Bottleneck(name="medium", tokens=64, codes=64, setting="cifar10", tiny_codes=4, tiny_setting=TINY),
    Bottleneck(name="large", tokens=64, codes=512, setting="cifar10", tiny_codes=16, tiny_setting=TINY),
)


def sweep_rows(sizes: Sequence[Bottleneck]) -> tuple[Row, ...]:
    """Every method at every size."""
    return tuple(
        Row(
            name=_row_name(label, size),
            slug=f"{method}_{size.name}",
            method=method,
            changes=(f"vocabulary={size.codes}",),
            tiny_changes=(f"vocabulary={size.tiny_codes}",),
            setting=size.setting,
            tiny_setting=size.tiny_setting,
        )
        for method, label in METHODS.items()
        for size in sizes
    )


def curves(
    sizes: Sequence[Bottleneck], groups: Mapping[str, Sequence[Finished]], key: str
) -> dict[str, list[tuple[float, float, float | None]]]:
    """Collect a measure over the size of the bottleneck.

    Args:
        sizes: In the order of the rows.
        groups: Finished jobs by row; a row may be missing.
        key: Of evaluation.json.

    Returns:
        For every method that has the measure: bits of the codes, mean over seeds, half of the 95 % interval.
    """
    found: dict[str, list[tuple[float, float, float | None]]] = {}
    for label in METHODS.values():
        points = []
        for size in sizes:
            results = [one.result for one in groups.get(_row_name(label, size), ())]
            if results and results[0][key] is not None:
                mean, half = student_interval([float(result[key]) for result in results])
                points.append((float(results[0][BITS.key]), mean, half))
        if points:
            found[label] = points
    return found


def _row_name(label: str, size: Bottleneck) -> str:
    return f"{label}, {size.name}"


def _draw(sizes: Sequence[Bottleneck], options: Options, finished: Sequence[Finished], folder: Path) -> list[Path]:
    """Draw PSNR and beta-ELBO over bits."""
    from matplotlib.figure import Figure  # slow to import and wanted only here

    from motionlex.motion_vae import figures

    groups = by_row(finished)
    figure = Figure(figsize=(8.0, 3.6), dpi=figures.DPI, layout="constrained")
    for axes, measure in zip(figure.subplots(1, 2), (PSNR, BETA_ELBO)):
        for label, points in curves(sizes, groups, measure.key).items():
            bits, means, halves = zip(*points)
            axes.errorbar(bits, means, yerr=[half or 0.0 for half in halves], marker="o", capsize=3, label=label)
        axes.set_xlabel("bits of the codes, B log2 V")
        axes.set_ylabel(measure.title)
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(fontsize=8)
    figure.suptitle(options.title, fontsize=10)
    return [figures.save(figure, folder / "bottlenecks.png")]


def _sweep(name: str, figure: str, title: str, setting: str, sizes: Sequence[Bottleneck]) -> Experiment:
    listed = "; ".join(f"{size.name}: {size.tokens} tokens of {size.codes} codes" for size in sizes)
    return experiment(
        name,
        f"DAPS, {figure}: size of the bottleneck ({title})",
        setting=setting,
        data=setting,
        rows=sweep_rows(sizes),
        measures=(BITS, PSNR, BETA_ELBO, KL, USAGE, PERPLEXITY),
        notes=(
            f"On the paper's images {listed}; all other values are those of table 1",
            "The paper tunes every method at every size, which is not repeated, and shows curves, no numbers",
            "VQ-VAE has no entropy term: compare its PSNR only",
        ),
        draw=partial(_draw, sizes),
    )


BOTTLENECK_SWEEP = _sweep("bottleneck-sweep", "figure 12", "MNIST", "mnist", MNIST_SIZES)
BOTTLENECK_SWEEP_CIFAR = _sweep("bottleneck-sweep-cifar", "figure 13", "CIFAR-10", "cifar10", CIFAR10_SIZES)
