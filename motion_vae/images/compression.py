"""RRVQ-VAE, appendix F: a trained model as a compressor, against JPEG at equal size."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch

from motionlex.data.images.dataset import ImageData
from motionlex.data.images.source import in_order
from motionlex.motion_vae.images.code_lengths import nearest, packed_bytes
from motionlex.motion_vae.images.evaluation import SHOWN, tiled
from motionlex.motion_vae.images.jobs import Experiment, Finished, Job, Options, Report, Result, TrainingJob
from motionlex.motion_vae.images.levels import decode_levels, most_probable_codes
from motionlex.motion_vae.images.model_experiments import Row, experiment
from motionlex.motion_vae.images.rate_distortion import COUNTS, as_bytes, compress, measure_rates, unit_pixels
from motionlex.motion_vae.images.runs import TrainedImages
from motionlex.motion_vae.images.tables import BITS, PSNR, SSIM
from motionlex.motion_vae.methods.rrvq import RRVQ
from motionlex.motion_vae.metrics import student_interval
from motionlex.motion_vae.registry import PlainValue

PICTURE = "compressed.png"
"""In the folder of a job: originals, the model at a fixed length, JPEG of that size by its scan and by its file."""
NAME = "rrvq-compression"
SUMMARY = "RRVQ-VAE, figure F.9: compression against JPEG at equal size (CelebA 64)"
NAMES = {"fixed": "fixed length", "coded": "entropy-coded", "scan": "scan alone", "file": "whole file"}
Point = dict[str, PlainValue]


@dataclass(frozen=True, kw_only=True)
class CompressionJob(TrainingJob):
    """Train one RRVQ-VAE, and measure bytes and errors."""

    def further(self, trained: TrainedImages, data: ImageData, folder: Path) -> Result:
        """Measure, and draw figure F.9."""
        _draw_pictures(trained, data, folder / PICTURE)
        model = cast("RRVQ", trained.model)
        return {"rates": measure_rates(model, trained.preprocessing, data.test, limit=self.images)}


def _draw_pictures(trained: TrainedImages, data: ImageData, path: Path) -> None:
    """Draw originals, the model, and the JPEG files whose scan, or all of which, is about as long as its codes."""
    from motionlex.motion_vae.figures import save_picture  # matplotlib is slow to import and wanted only here

    model = cast("RRVQ", trained.model)
    grid = (model.domain.grid[0], model.domain.grid[1])
    x, _ = next(in_order(data.test, trained.preprocessing, batch=SHOWN, limit=SHOWN))
    codes = most_probable_codes(model, x.to(next(model.parameters()).device))
    rows = [x, as_bytes(decode_levels(model, codes, model.layers).mean.cpu())]
    wanted = packed_bytes(model.tokens, model.vocabulary)
    for count in COUNTS:
        found = [compress(pixels, grid)[count] for pixels in x]
        rows.append(torch.cat([unit_pixels(files[nearest(files, sizes, wanted)]) for files, sizes in found]))
    save_picture(tiled(torch.cat(rows), grid, len(x)), path)


def report_rates(base: Experiment, options: Options, finished: Sequence[Finished], folder: Path) -> Report:
    """Add to the usual table what was measured in bytes, averaged over seeds."""
    text, plain, files = base.report(options, finished, folder)
    results = [cast("dict[str, list[Point]]", one.result["rates"]) for one in finished]
    points = {name: _averaged([result[name] for result in results]) for name in ("model", "jpeg", "curve")}
    raw = cast("dict[str, int]", finished[0].result["rates"])["raw_bytes"]
    lines = [
        f"### Bytes of an image ({raw:,} uncompressed)",
        "",
        "| | bytes, fixed length | bytes, entropy-coded | bytes, JPEG | PSNR [dB] | SSIM |",
        "| --- " * 6 + "|",
    ]
    for point in points["model"]:
        label = f"RRVQ-VAE, {point['levels']} of {len(points['model'])} levels"
        lines.append(_line(label, [point["fixed_bytes"], point["coded_bytes"], None], point))
    for point in points["jpeg"]:
        counted = str(point["counted"])
        label = f"JPEG, {NAMES[counted]}, nearest to all levels {NAMES[str(point['near'])]}"
        lines.append(_line(label, [None, None, point[f"{counted}_bytes"]], point))
    notes = [
        "Codes: the most probable of q. Fixed length: exact, written and read again. Entropy-coded: bound of an "
        "arithmetic coder with the learned prior, information plus two bits, rounded up to bytes; nothing is coded",
        "With fewer levels, those left out are the most probable of p",
        "JPEG by Pillow, qualities 1 to 95, with and without subsampling of the colours, the nearest in size. Whole "
        "file: with header and the image's own Huffman tables. Scan alone: entropy-coded data with the standard's "
        "tables and 1 byte for quality and subsampling; neither codec's side counts what sender and receiver share",
        "A JPEG header alone is some hundred bytes: where that exceeds the model, its whole file is the smallest there "
        "is, and longer than the model's",
    ]
    text += "\n" + "\n".join(lines) + "\n\n" + "\n\n".join(f"{note}." for note in notes) + "\n"
    plain = {**plain, "rates": {**points, "raw_bytes": raw, "notes": notes}}
    pictures = [finished[0].folder / PICTURE]
    return text, plain, [*files, _draw_curves(points, options, folder / "rate_distortion.png"), *pictures]


def _averaged(runs: Sequence[Sequence[Point]]) -> list[Point]:
    """Average every number of every point over seeds; psnr_db gets the half width of its interval beside it.

    What is no number for some seed stays out: JPEG keeps swatches exactly, and their PSNR is infinite.
    """
    points: list[Point] = []
    for group in zip(*runs):
        point: Point = {}
        for name, first in group[0].items():
            values = [one[name] for one in group]
            if not all(isinstance(value, float) for value in values):
                point[name] = first if first == values[-1] else None
                continue
            point[name], half = student_interval(cast("list[float]", values))
            if name == "psnr_db":
                point["psnr_db_half_width_95"] = half
        points.append(point)
    return points


def _line(label: str, sizes: Sequence[PlainValue], point: Point) -> str:
    psnr, half = point["psnr_db"], point.get("psnr_db_half_width_95")
    cells = ["-" if size is None else f"{size:,.1f}" for size in sizes]
    cells.append("-" if psnr is None else f"{psnr:.2f}" + ("" if half is None else f" ± {half:.2f}"))
    cells.append("-" if point["ssim"] is None else f"{point['ssim']:.3f}")
    return f"| {' | '.join([label, *cells])} |"


def _draw_curves(points: dict[str, list[Point]], options: Options, path: Path) -> Path:
    from matplotlib.figure import Figure  # slow to import and wanted only here

    from motionlex.motion_vae import figures

    measures = [("psnr_db", "PSNR [dB]"), ("ssim", "SSIM")][: 1 if points["model"][0]["ssim"] is None else 2]
    figure = Figure(figsize=(5.0 * len(measures), 4.0), dpi=figures.DPI, layout="constrained")
    lines = (("model", "fixed", "o-"), ("model", "coded", "s-"), ("curve", "scan", "x--"), ("curve", "file", "+--"))
    for place, (key, title) in enumerate(measures, start=1):
        axes = figure.add_subplot(1, len(measures), place)
        for kind, count, style in lines:
            name = f"{'RRVQ-VAE' if kind == 'model' else 'JPEG'}, {NAMES[count]}"
            axes.plot([p[f"{count}_bytes"] for p in points[kind]], [p[key] for p in points[kind]], style, label=name)
        axes.set_xscale("log")
        axes.set_xlabel("bytes of an image")
        axes.set_ylabel(title)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.suptitle(options.title, fontsize=10)
    return figures.save(figure, path)


def _on(setting: str) -> Experiment:
    return experiment(
        NAME,
        SUMMARY,
        setting=setting,
        data="celeba64",
        rows=(Row(name="RRVQ-VAE", slug="rrvq", method="rrvq"),),
        measures=(BITS, PSNR, SSIM),
        notes=("The paper shows pictures at 2,275 bits of 64 x 64 colour pixels, and no numbers",),
        job=CompressionJob,
    )


VARIANTS = {64: _on("celeba64_rrvq"), 32: _on("cifar10_rrvq")}
"""By rows of the images; others, and the refusal of what fits neither, belong to the paper's size."""


def _jobs(options: Options) -> Sequence[Job]:
    return VARIANTS.get(options.shape[0], VARIANTS[64]).jobs(options)


def _report(options: Options, finished: Sequence[Finished], folder: Path) -> Report:
    return report_rates(VARIANTS[64], options, finished, folder)


RRVQ_COMPRESSION = replace(VARIANTS[64], jobs=_jobs, report=_report)
