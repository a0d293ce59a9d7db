"""Runs side by side: seeds of the same configuration become one row with a confidence interval."""

import json
import textwrap
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from motionlex.data.errors import UserError
from motionlex.data.storage import finite, write_bytes, write_json
from motionlex.motion_vae import checkpoint
from motionlex.motion_vae.evaluated_runs import MEASURES, EvaluatedRun, check_conditions, read_runs
from motionlex.motion_vae.metrics import student_interval
from motionlex.motion_vae.registry import PlainValue

NAME = "comparison"
"""Name of the written files."""
MISSING = "-"
"""What stands in the table where there is no number."""


@dataclass(frozen=True, kw_only=True)
class CompareFlags:
    """Compare evaluated runs: seeds of one configuration become one row."""

    out: Path = Path("runs") / NAME
    """Folder of comparison.md, comparison.json and comparison.png."""
    mixed: bool = False
    """Compare runs on different data, rates, segment lengths or evaluations all the same; the table says so."""
    json: bool = False
    """Print one JSON object as the last line of stdout."""


def compare(runs: Sequence[Path], flags: CompareFlags) -> dict[str, PlainValue]:
    """Read evaluated runs, average over seeds, and write the table, the numbers and the picture.

    Args:
        runs: Run folders; a folder that an earlier comparison wrote is passed over.
        flags: Where to write, and whether unlike runs may be mixed.

    Returns:
        ``groups`` (best pooled PSNR first), ``notes``, and the written ``files``.

    Raises:
        UserError: If there are no runs, one is not evaluated or given twice, or unlike runs are mixed unasked.
    """
    folders = [run for run in runs if not _is_comparison(run)]
    if not folders:
        raise UserError("no runs to compare: give run folders of train_motion_vae, e.g. motionlex compare runs/*")
    evaluated = read_runs(folders)
    differences = check_conditions(evaluated, mixed=flags.mixed)
    notes = list(differences)
    groups = summarise_groups(evaluated)
    for key, name in (("steps", "steps"), ("bits_per_segment", "bits per segment")):
        if len({group[key] for group in groups}) > 1:
            notes.append(f"rows differ in {name}")
    baselines = [b for run in evaluated if isinstance(b := run.evaluation.get("psnr_of_training_mean_db"), float)]
    if baselines and not differences:
        mean = student_interval(baselines)[0]
        notes.append(f"predicting the mean of the training split has a pooled PSNR of {mean:.2f} dB")
    files = [str(flags.out / f"{NAME}.{ending}") for ending in ("md", "json", "png")]
    result: dict[str, PlainValue] = {"groups": groups, "notes": notes, "files": files}
    write_bytes(Path(files[0]), markdown(result).encode())
    write_json(Path(files[1]), typing.cast("Mapping[str, object]", finite(result)))
    _plot(groups, Path(files[2]))
    return result


def summarise_groups(runs: Sequence[EvaluatedRun]) -> list[dict[str, PlainValue]]:
    """Average over runs that differ in their seed only.

    Returns:
        One object per configuration, best pooled PSNR first, with mean, half width of the 95 % interval (Student's t;
        None for one seed) and values of every measure.

    Raises:
        UserError: If two runs have the same configuration and the same seed.
    """
    groups: dict[str, list[EvaluatedRun]] = {}
    for run in runs:
        key = json.dumps([run.settings, run.conditions], sort_keys=True)
        same = [other for other in groups.setdefault(key, []) if other.config.seed == run.config.seed]
        if same:
            raise UserError(
                f"{same[0].folder} and {run.folder} are one configuration with one seed ({run.config.seed}): "
                "they are no independent repetitions; give one of them"
            )
        groups[key].append(run)
    members = [sorted(group, key=lambda run: run.config.seed) for group in groups.values()]
    rows = [_row(group, label) for group, label in zip(members, _labels([group[0] for group in members]))]
    return sorted(rows, key=lambda row: -typing.cast("Mapping", row["metrics"])["psnr_db"]["mean"])


def markdown(result: Mapping[str, PlainValue]) -> str:
    """Write the result of :func:`compare` as a Markdown table with its notes."""
    groups = typing.cast("Sequence[Mapping]", result["groups"])
    measures = [m for m in MEASURES if any(m.key in group["metrics"] for group in groups)]
    titles = ["method", "bits/segment", "steps", "seeds", "parameters", *(m.title for m in measures)]
    lines = [titles, ["---"] * len(titles)]
    for group in groups:
        bits = group["bits_per_segment"]
        lines.append(
            [
                group["label"],
                MISSING if bits is None else f"{bits:g}",
                f"{group['steps']}",
                f"{len(group['seeds'])}",
                MISSING if group["parameters"] is None else f"{group['parameters']:,}",
                *(_cell(group["metrics"].get(m.key), m.digits) for m in measures),
            ]
        )
    notes = [f"Note: {note}." for note in typing.cast("Sequence[str]", result["notes"])]
    notes.append("Mean ± half of the 95 % confidence interval over seeds (Student's t); no interval for one seed.")
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n\n" + "\n\n".join(notes) + "\n"


def _row(group: Sequence[EvaluatedRun], label: str) -> dict[str, PlainValue]:
    first, metrics = group[0], {}
    for measure in MEASURES:
        values = [run.evaluation.get(measure.key) for run in group]
        numbers = [float(value) for value in values if isinstance(value, (int, float))]
        if len(numbers) == len(group):  # a mean over some of the seeds would not be that of its row
            mean, half = student_interval(numbers)
            metrics[measure.key] = {"mean": mean, "half_width_95": half, "values": numbers}
    return {
        "label": label,
        "method": first.config.method,
        "preset": first.config.preset,
        "steps": first.meta["steps"],
        "seeds": [run.config.seed for run in group],
        "runs": [str(run.folder) for run in group],
        "bits_per_segment": first.evaluation.get("bits_per_segment"),
        "parameters": first.evaluation.get("parameters"),
        "conditions": first.conditions,
        "metrics": metrics,
    }


def _labels(firsts: Sequence[EvaluatedRun]) -> list[str]:
    """Name groups by method, where needed by preset, and by the settings in which alike ones differ."""
    labels = []
    for run in firsts:
        method, preset = run.config.method, run.config.preset
        presets = {other.config.preset for other in firsts if other.config.method == method}
        alike = [other for other in firsts if (other.config.method, other.config.preset) == (method, preset)]
        differing = [
            f"{path.rpartition('.')[2]}={value}"
            for path, value in run.settings.items()
            if any(other.settings.get(path) != value for other in alike)
        ]
        labels.append(" ".join([method, *([preset] if len(presets) > 1 else []), *differing]))
    return labels


def _cell(metric: Mapping[str, float | None] | None, digits: int) -> str:
    if metric is None:
        return MISSING
    half = metric["half_width_95"]
    return f"{metric['mean']:.{digits}f}" + ("" if half is None else f" ± {half:.{digits}f}")


def _plot(groups: Sequence[Mapping], path: Path) -> None:
    from motionlex.motion_vae import figures  # matplotlib is slow to import and wanted only here

    panels = []
    for measure in MEASURES:
        found = [group["metrics"].get(measure.key) for group in groups]
        if measure.plotted and any(found):
            panels.append(
                figures.Panel(
                    title=measure.title,
                    means=[None if metric is None else metric["mean"] for metric in found],
                    half_widths=[None if metric is None else metric["half_width_95"] for metric in found],
                )
            )
    labels = [textwrap.shorten(group["label"], 44, placeholder=" …") for group in groups]
    figures.save(figures.comparison_plot(labels, panels), path)


def _is_comparison(folder: Path) -> bool:
    return (folder / f"{NAME}.json").is_file() and not (folder / checkpoint.CONFIG_FILE).exists()
