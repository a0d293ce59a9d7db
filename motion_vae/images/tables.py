"""Results of trained models as one table: mean over seeds, with the paper's value beside it, and a picture."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from motionlex.motion_vae.images.jobs import Finished, Options, Report
from motionlex.motion_vae.metrics import student_interval
from motionlex.motion_vae.registry import PlainValue

MISSING = "-"
"""What stands in the table where there is no number."""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A column."""

    key: str
    """Name in evaluation.json."""
    title: str
    """Name and unit."""
    digits: int
    """Decimals."""


BETA_ELBO = Measure(key="beta_elbo", title="beta-ELBO [nat]", digits=2)
ELBO = Measure(key="elbo_nats", title="ELBO [nat]", digits=2)
LOG_LIKELIHOOD = Measure(key="log_likelihood", title="log-likelihood [nat]", digits=2)
KL = Measure(key="kl_nats", title="KL [nat]", digits=2)
PSNR = Measure(key="psnr_db", title="PSNR [dB]", digits=2)
SSIM = Measure(key="ssim", title="SSIM", digits=3)
MSE = Measure(key="mse_1e3", title="MSE x 1e3", digits=2)
BITS = Measure(key="bits_per_dimension", title="bits per dimension", digits=3)
USAGE = Measure(key="usage", title="usage", digits=3)
PERPLEXITY = Measure(key="perplexity", title="perplexity", digits=1)
BATCH_PERPLEXITY = Measure(key="perplexity_per_batch", title="perplexity of the codes per batch", digits=1)
POSTERIOR_PERPLEXITY = Measure(key="posterior_perplexity_per_batch", title="perplexity of q(c|x) per batch", digits=1)


@dataclass(frozen=True, kw_only=True)
class TableLayout:
    """Which columns, and what the paper has in them."""

    title: str
    """Heading."""
    measures: tuple[Measure, ...]
    """Columns, in order."""
    paper: Mapping[str, Mapping[str, float]]
    """The paper's values by row and key."""
    paper_data: str
    """Data set of the paper's values."""
    notes: tuple[str, ...] = ()
    """What a reader must know."""
    held_out: bool = True
    """Whether the numbers are of held-out images, which a note then counts."""


def report_models(layout: TableLayout, options: Options, finished: Sequence[Finished], folder: Path) -> Report:
    """Average over seeds, lay the table out, and draw its measures.

    Args:
        layout: Columns and the paper's values.
        options: What was changed of the experiment.
        finished: All jobs of at least one row, in the order of the rows.
        folder: Where the figure goes.
    """
    rows = [_row(layout, name, group) for name, group in by_row(finished).items()]
    reduced = [] if options.width is None else [f"All networks are reduced to width {options.width}"]
    reduced += [f"Changed where a row has it: {change}" for change in options.changes]
    other = [] if options.data == layout.paper_data else ["Not the paper's images: its values are no comparison here"]
    notes = [*other, *reduced, *layout.notes]
    if layout.held_out:
        images = finished[0].result["images"]
        notes.append(f"Held-out images: {images}, one code sequence each, drawn where the method draws at evaluation")
    notes.append("Mean ± half of the 95 % interval over seeds (Student's t); no interval for one seed")
    plain: dict[str, PlainValue] = {
        "title": layout.title,
        "data": options.data,
        "data_title": options.title,
        "paper_data": layout.paper_data,
        "width": options.width,
        "changes": list(options.changes),
        "rows": rows,
        "notes": notes,
    }
    return _markdown(layout, options, rows, notes), plain, [_draw(layout, rows, folder / "measures.png")]


def by_row(finished: Sequence[Finished]) -> dict[str, list[Finished]]:
    """Group the seeds of every row, in the order of the jobs."""
    groups: dict[str, list[Finished]] = {}
    for one in finished:
        groups.setdefault(one.job.row, []).append(one)
    return groups


def _row(layout: TableLayout, name: str, group: Sequence[Finished]) -> dict[str, PlainValue]:
    cells: dict[str, PlainValue] = {}
    for measure in layout.measures:
        found = [one.result.get(measure.key) for one in group]  # older jobs lack newer measures
        values = [float(value) for value in found if isinstance(value, (int, float))]
        mean, half = student_interval(values) if len(values) == len(group) else (None, None)
        paper = layout.paper.get(name, {}).get(measure.key)
        cells[measure.key] = {"mean": mean, "half_width_95": half, "values": values, "paper": paper}
    first = group[0].result
    return {
        "row": name,
        "steps": first["steps"],
        "batch": first["batch"],
        "seeds": [one.job.seed for one in group],
        "parameters": first["parameters"],
        "measures": cells,
    }


def _markdown(layout: TableLayout, options: Options, rows: Sequence[Mapping], notes: Sequence[str]) -> str:
    published = {m.key for m in layout.measures if any(row["measures"][m.key]["paper"] is not None for row in rows)}
    titles = ["", "steps", "batch", "seeds", "parameters"]
    for measure in layout.measures:
        titles += [measure.title] + ([f"paper ({layout.paper_data})"] if measure.key in published else [])
    lines = [titles, ["---"] * len(titles)]
    for row in rows:
        seeds = ", ".join(map(str, row["seeds"]))
        line = [row["row"], f"{row['steps']:,}", str(row["batch"]), seeds, f"{row['parameters']:,}"]
        for measure in layout.measures:
            cell = row["measures"][measure.key]
            line.append(_number(cell["mean"], cell["half_width_95"], measure.digits))
            if measure.key in published:
                line.append(_number(cell["paper"], None, measure.digits))
        lines.append(line)
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"## {layout.title}: {options.title}\n\n{table}\n\n" + "\n\n".join(f"{note}." for note in notes) + "\n"


def _number(mean: float | None, half: float | None, digits: int) -> str:
    if mean is None:
        return MISSING
    return f"{mean:.{digits}f}" + ("" if half is None else f" ± {half:.{digits}f}")


def _draw(layout: TableLayout, rows: Sequence[Mapping], path: Path) -> Path:
    from motionlex.motion_vae import figures  # matplotlib is slow to import and wanted only here

    panels = [
        figures.Panel(
            title=measure.title,
            means=[row["measures"][measure.key]["mean"] for row in rows],
            half_widths=[row["measures"][measure.key]["half_width_95"] for row in rows],
        )
        for measure in layout.measures
        if any(row["measures"][measure.key]["mean"] is not None for row in rows)
    ]
    return figures.save(figures.comparison_plot([row["row"] for row in rows], panels), path)
