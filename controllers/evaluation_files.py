"""The report of the whole stack as files: JSON, Markdown and figures."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from motionlex.data.errors import UserError
from motionlex.data.storage import finite, write_bytes, write_json

Row = Mapping[str, object]
STAGES = ("data", "reconstruction", "generated", "simulated")
"""Stages that share one table, in the order in which errors add up."""
FILES = ("report.json", "report.md", "recall.png", "confusion.png", "switches.png")
"""What a report may consist of, beside the folder ``tracking``."""
METRICS = (
    ("judge_accuracy", "linear judge [%]", 100.0, 1),
    ("recall_at_1", "R@1 [%]", 100.0, 1),
    ("recall_at_2", "R@2 [%]", 100.0, 1),
    ("recall_at_3", "R@3 [%]", 100.0, 1),
    ("frechet_distance", "Frechet distance", 1.0, 3),
    ("diversity", "diversity", 1.0, 3),
    ("keypoint_error_local_mm", "key points, root aligned [mm]", 1.0, 1),
    ("keypoint_error_global_mm", "key points, world [mm]", 1.0, 0),
    ("joint_error_rad", "joints [rad]", 1.0, 3),
    ("foot_sliding_mps", "foot sliding [m/s]", 1.0, 3),
    ("foot_contact_share", "foot on the floor [%]", 100.0, 0),
    ("upright", "upright [%]", 100.0, 1),
    ("torque_saturation", "saturated motor-steps [%]", 100.0, 2),
    ("power_w", "mechanical power [W]", 1.0, 0),
)
"""Key, title, factor and decimals of the rows of the table of stages."""
NONE = "–"  # noqa: RUF001 (a dash, not a hyphen)


def check_report_folder(folder: Path) -> None:
    """Refuse a folder that is none, or that holds anything but an earlier report, before anything is computed.

    Raises:
        UserError: If so.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--out {folder} is a file; give a folder")
    if folder.is_dir() and (others := sorted({path.name for path in folder.iterdir()} - {*FILES, "tracking"})):
        raise UserError(f"--out {folder} holds {others[0]}; give a new folder or one of an earlier report")


def write_stack_report(folder: Path, report: Row) -> list[Path]:
    """Write report.json, report.md and the figures; figures of an earlier report that this one lacks are removed.

    Args:
        folder: Where to; made if missing.
        report: One object per stage.

    Returns:
        The files.
    """
    from motionlex.controllers.evaluation_figures import draw_stack_report  # matplotlib is slow to import

    for name in FILES:
        (folder / name).unlink(missing_ok=True)
    write_json(folder / "report.json", cast(Row, finite(report)))
    figures = draw_stack_report(folder, report)
    write_bytes(folder / "report.md", markdown(report, [path.name for path in figures]).encode())
    return [folder / "report.json", folder / "report.md", *figures]


def markdown(report: Row, figures: Sequence[str] = ()) -> str:
    """Return the report as Markdown.

    Args:
        report: One object per stage.
        figures: Names of PNG files beside it.
    """
    lines = [f"# Evaluation of the bundle {report['bundle']}", ""]
    lines += [
        f"Data set {report.get('data_set')}, {report['hz']:g} Hz, seed {report['seed']:g}, "
        f"{report.get('evaluators')} motion evaluators. 95 % intervals in brackets; docs/evaluation.md says what every "
        "number means.",
        "",
        *_split(report),
        *_origin(report),
        "## Stages",
        "",
        *stage_table(report),
        "",
        "The Frechet distance of the data is that of two halves of the held-out clips: the floor.",
        "",
        *_attribution(report),
    ]
    simulated = section(report, "simulated")
    lines += [*_prompts(simulated), *_paths(simulated, section(report, "generated"))]
    lines += [*_sensitivity(simulated), *_switches(simulated)]
    lines += _tracking(section(report, "tracking"))
    for name in figures:
        lines += [f"![{name.removesuffix('.png')}]({name})", ""]
    return "\n".join(lines)


def _split(report: Row) -> list[str]:
    """Say so where the clips that stand for held-out ones are not."""
    if report.get("split") != "train":
        return []
    return [
        "**No clip is held out:** the data set has training clips only, and these were scored, and compared with, "
        "wherever held-out clips are named. The judge has learned from them, and the bundle may have.",
        "",
    ]


def _origin(report: Row) -> list[str]:
    """What made the report, for whoever wants to make it again."""
    made = section(report, "provenance")
    if not made:
        return []
    versions = ", ".join(f"{name} {version or 'unknown'}" for name, version in section(made, "versions").items())
    return [
        f"* command: `{shlex.join(cast(Sequence[str], made['command']))}`",
        f"* commit: {made['commit'] or 'unknown (not run from a repository)'}",
        f"* SHA-256 of the bundle's meta.json, which holds those of its other files: {report.get('bundle_sha256')}",
        f"* device: {made['device']}, threads: {made['threads']}; {versions}",
        "",
    ]


def stage_table(report: Row) -> list[str]:
    """One row per metric, one column per stage."""
    columns = [section(section(report, stage), "scores") for stage in STAGES]
    takes = " | ".join(str(column.get("takes", NONE)) for column in columns)
    lines = ["| | " + " | ".join(STAGES) + " |", "|" + "---|" * (len(STAGES) + 1), f"| takes | {takes} |"]
    for key, title, factor, digits in METRICS:
        cells = [cell(column.get(key), factor, digits) for column in columns]
        if any(text != NONE for text in cells):
            lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return lines


def cell(value: object, factor: float = 1.0, digits: int = 3) -> str:
    """Format a mean with its interval and, where there are evaluators of several seeds, their spread."""
    if not isinstance(value, Mapping):
        return f"{factor * value:.{digits}f}" if isinstance(value, (int, float)) else NONE
    mean, ends, spread = value.get("mean"), value.get("interval_95"), value.get("spread")
    if not isinstance(mean, (int, float)):
        return NONE
    text = f"{factor * mean:.{digits}f}"
    if isinstance(spread, (int, float)):
        text += f" ± {factor * spread:.{digits}f}"
    if isinstance(ends, Sequence):
        text += f" [{factor * float(ends[0]):.{digits}f}, {factor * float(ends[1]):.{digits}f}]"
    return text


def attribution(report: Row) -> dict[str, float]:
    """Return what every stage after the first loses of the judge's accuracy, in points of a share."""
    means = [section(section(section(report, stage), "scores"), "judge_accuracy").get("mean") for stage in STAGES]
    known = [float(mean) if isinstance(mean, (int, float)) else float("nan") for mean in means]
    return {stage: before - after for stage, before, after in zip(STAGES[1:], known[:-1], known[1:], strict=True)}


def paired(report: Row) -> dict[str, bool]:
    """Tell which stages after the first score takes of the same names as the stage before: the same clips or prompts.

    Elsewhere other motions are compared, so that the difference is no loss of any one of them.
    """
    names = [section(section(report, stage), "scores").get("take_names") for stage in STAGES]
    return {
        stage: after is not None and before == after
        for stage, before, after in zip(STAGES[1:], names[:-1], names[1:], strict=True)
    }


def _attribution(report: Row) -> list[str]:
    words = {"reconstruction": "codes", "generated": "the choice of codes", "simulated": "control"}
    lost = ", ".join(f"{words[stage]} {100 * loss:+.1f}" for stage, loss in attribution(report).items())
    lines = [f"Points of the linear judge's accuracy that are lost to: {lost}. Negative is a gain.", ""]
    found = paired(report)
    if same := ", ".join(words[stage] for stage, is_paired in found.items() if is_paired):
        lines += [f"Paired, the same takes or prompts before and after: {same}.", ""]
    if other := ", ".join(words[stage] for stage, is_paired in found.items() if not is_paired):
        lines += [
            f"Unpaired: {other}. Other motions are compared there, with other shares of the actions, so that the "
            "difference is not only what was lost.",
            "",
        ]
    return lines


def _prompts(simulated: Row) -> list[str]:
    if "paraphrase_accuracy" not in simulated:
        return []
    survival = {"mean": simulated.get("survival_30s"), "interval_95": simulated.get("survival_30s_interval_95")}
    return [
        "## Simulated prompts",
        "",
        f"* held-out paraphrases executed as the right action: {cell(accuracy_of(simulated), 100.0, 1)} % of "
        f"{simulated['prompts']:g} (chance {100 * float(cast(float, simulated['chance'])):.1f} %)",
        f"* falls: {simulated['falls']:g}",
        f"* survival of 30 s with a random command every 5 s: {cell(survival, 100.0, 1)} % of "
        f"{simulated.get('survival_rollouts', 0)} rollouts; commands recognised: "
        f"{cell(simulated.get('switch_accuracy'), 100.0, 1)} %",
        "",
    ]


def accuracy_of(stage: Row) -> Row:
    """Accuracy on held-out paraphrases with its interval."""
    return {"mean": stage.get("paraphrase_accuracy"), "interval_95": stage.get("paraphrase_accuracy_interval_95")}


def _paths(simulated: Row, generated: Row) -> list[str]:
    paths = section(simulated, "paths")
    if not paths:
        return []
    settled, silent = section(paths, "settled"), section(simulated, "paths_without_words")
    distance = cell(section(silent, "settled").get("path_error_m"), 1.0, 3)
    planned = section(section(generated, "paths"), "settled")
    rows = [
        ("path error [m]", "path_error_m", 3),
        ("heading error [deg]", "heading_error_deg", 1),
        ("speed error [m/s]", "speed_error_mps", 3),
    ]
    return [
        "## Commanded paths",
        "",
        f"| | whole time | from {paths['from_s']:g} s on | the same of plans without physics |",
        "|---|---|---|---|",
        *(
            f"| {title} | " + " | ".join(cell(found.get(key), 1.0, n) for found in (paths, settled, planned)) + " |"
            for title, key, n in rows
        ),
        "",
        f"{paths.get('paths')} paths, falls: {paths.get('falls')} (they count). By path: median "
        f"{cell(settled.get('median_m'), 1.0, 3)} m, {cell(settled.get('close'), 100.0, 1)} % within "
        f"{settled.get('close_m')} m.",
        *([f"Without words: {distance} m, falls: {silent['falls']}."] if silent else []),
        "",
    ]


def _sensitivity(simulated: Row) -> list[str]:
    found = section(simulated, "sensitivity")
    if not found:
        return []
    shuffled, empty, foreign = (section(found, f"{name}_text") for name in ("shuffled", "empty", "foreign"))
    seen = ", ".join(f"{action} {count}" for action, count in section(empty, "recognised").items())
    obeyed = "; ".join(
        f"{row['text']!r} as {row['action']} ({float(row['similarity']):.2f})"
        for row in cast(Sequence[Mapping[str, str]], foreign["obeyed"])
    )
    return [
        "## Prompt sensitivity",
        "",
        f"* the caption of another action is given: {cell(shuffled.get('accuracy'), 100.0, 1)} % recognised as the "
        f"prompt's own action (chance {100 * float(cast(float, shuffled['chance'])):.1f} %), "
        f"{cell(shuffled.get('accuracy_of_given'), 100.0, 1)} % as the given one; {shuffled['falls']} falls in "
        f"{shuffled['prompts']}",
        f"* no words at all: {seen}; {empty['falls']} falls in {empty['rollouts']}, "
        f"{cell(empty.get('mean_distance_m'), 1.0, 2)} m on average",
        f"* prompts that the library does not hold: {cell(foreign.get('refused'), 100.0, 1)} % refused (similarity "
        f"below {foreign['threshold']:g}); held-out captions refused: {cell(foreign.get('own_refused'), 100.0, 1)} %",
        *([f"* obeyed all the same: {obeyed}"] if obeyed else []),
        "",
    ]


def _switches(simulated: Row) -> list[str]:
    found = section(simulated, "switches")
    if not found:
        return []
    rows = [("delay [s]", "delay_s", 2)]
    for title, key in (("", "jerk_ratio"), (" of the plan", "jerk_ratio_planned")):
        rows.append((f"jerk{title} at the seam / in recordings", key, 2))
        rows.append((f"jerk{title} elsewhere / in recordings", f"{key}_elsewhere", 2))
    lines = [
        "## Switches",
        "",
        f"{found['switches']} ordered pairs: {cell(found.get('survived'), 100.0, 1)} % survived, second action "
        f"recognised {cell(found.get('recognised'), 100.0, 1)} %.",
        "",
        "| | median | 95th percentile | largest |",
        "|---|---|---|---|",
    ]
    for title, key, digits in rows:
        values = section(found, key)
        cells = [cell(values.get(name), 1.0, digits) for name in ("median", "p95", "largest")]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def _tracking(tracking: Row) -> list[str]:
    if "success_rate" not in tracking:
        return []
    return [
        "## Tracker alone",
        "",
        f"{cell(tracking.get('success_rate'), 100.0, 1)} % of rollouts on held-out clips succeed, "
        f"{cell(tracking.get('keypoint_error_local_mm'), 1.0, 1)} mm local key-point error; more in tracking/.",
        "",
    ]


def section(report: Row, key: str) -> Row:
    """Return a part of a report; an empty one where it is missing."""
    part = report.get(key)
    return part if isinstance(part, Mapping) else {}
