"""``motionlex evaluate-stack``: choose stages, load what they need, collect their reports."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from motionlex.controllers.bundle import Bundle, load_bundle, resolve_bundle
from motionlex.controllers.evaluation import (
    EvaluationConfig,
    evaluate_data,
    evaluate_generated,
    evaluate_reconstruction,
)
from motionlex.controllers.evaluation_files import check_report_folder, write_stack_report
from motionlex.controllers.evaluation_scores import Jury, Value
from motionlex.controllers.evaluation_simulated import evaluate_simulated
from motionlex.controllers.evaluation_takes import cut_takes
from motionlex.controllers.evaluation_tracking import evaluate_tracking
from motionlex.controllers.export import exported_policy
from motionlex.controllers.low_level_config import select_clips
from motionlex.controllers.low_level_policy import LowLevelPolicy
from motionlex.controllers.low_level_setup import build_task, fresh_codes, load_low_level_config
from motionlex.controllers.motion_classifier import fit_classifier
from motionlex.controllers.motion_evaluator import load_evaluators, shipped_evaluators
from motionlex.controllers.stack import bundle_encoder
from motionlex.controllers.tracking_report import CURVES, check_out, write_report
from motionlex.data.datasets import MotionData, find_root, get_dataset, load_dataset
from motionlex.data.errors import UserError, check_number, check_seed
from motionlex.data.robots import get_robot
from motionlex.envs.randomisation import Preset, Randomisation
from motionlex.envs.reference import MotionLibrary, settle, smooth
from motionlex.envs.transfer import transfer_model
from motionlex.motion_vae.checkpoint import CONFIG_FILE

logger = logging.getLogger(__name__)
Stage = Literal["data", "reconstruction", "generated", "simulated", "tracking", "all"]
TRACKING = "tracking"
"""Folder of the tracker's own report inside that of all stages."""
STAGES = ("data", "reconstruction", "generated", "simulated", "tracking")


@dataclass(frozen=True, kw_only=True)
class EvaluateStackFlags:
    """Evaluate a bundle (or, with --stage tracking, a run of train_lowlevel) stage by stage."""

    stage: Stage = "all"
    """data, reconstruction, generated, simulated, tracking, or all of them."""
    data: str | None = None
    """Data set; None takes the one of the bundle."""
    data_root: Path | None = None
    """Folder of the data set; None reads the data set's environment variable."""
    prompts: int = 2
    """Held-out captions per action."""
    prompt_seconds: float = 5.0
    """Duration of one prompt [s]."""
    split: Literal["validation", "train"] = "validation"
    """Clips for --stage tracking, unless the run names its own clips."""
    survival_rollouts: int = 10
    """Rollouts of 30 s with a new command every 5 s; 0 leaves them out."""
    switches: int = 0
    """Ordered pairs of actions that are simulated, from one into the other; more than there are takes all, 0 none."""
    sensitivity: bool = True
    """Simulate shuffled and empty texts as well, and ask for what the library does not hold."""
    evaluator: tuple[Path, ...] = ()
    """Runs of motionlex train-evaluator, one per seed; none takes those shipped for the data set."""
    clips: tuple[str, ...] = ()
    """Clips for --stage tracking, e.g. walk1_subject5:10-20; none takes the run's own, else those of --split."""
    model: Path | None = None
    """MJCF file of the same robot for --stage tracking: its bodies and contacts, our motors; None takes our model."""
    policy: Path | None = None
    """File of motionlex export that acts in place of the target's own weights under --stage tracking."""
    starts: int = 3
    """Starts of --stage tracking per stretch of motion, evenly spaced."""
    repeats: int = 1
    """Rollouts per start, spread over half a second where that leaves --seconds: a clip of 10 s has one start."""
    noise: bool = False
    """Perturb the starts of --stage tracking as in training."""
    randomise: Preset = "none"
    """How much robot, floor, delay and sensors differ from rollout to rollout of --stage tracking."""
    seconds: float = 10.0
    """Longest rollout of --stage tracking [s]."""
    out: Path | None = None
    """Folder for the report of --stage all (report.json, report.md, figures, and tracking/) or of --stage tracking
    (tracking.json, .md and .png, and curves.png of a run's training)."""
    seed: int = 0
    """Seed of codes (under --stage tracking draws that training has not seen), order of commands, noise, bootstrap."""
    threads: int = 1
    """Threads of torch."""
    json: bool = False
    """Print one JSON object as the last line of stdout."""


def evaluate_stack(target: str | None, flags: EvaluateStackFlags) -> Mapping[str, Value]:
    """Evaluate a bundle or a run.

    Args:
        target: Folder of a bundle or run; None takes the built-in bundle.
        flags: What to evaluate.

    Returns:
        With one stage its keys, with ``all`` one object per stage.

    Raises:
        UserError: On an unknown bundle, run or data set.
    """
    check_number("--prompts", flags.prompts, above=0)
    check_number("--threads", flags.threads, above=0)
    check_number("--survival-rollouts", flags.survival_rollouts, at_least=0)
    check_number("--prompt-seconds", flags.prompt_seconds, at_least=2, at_most=3600)
    check_number("--starts", flags.starts, at_least=1, at_most=1000)
    check_number("--repeats", flags.repeats, at_least=1, at_most=100_000)
    check_number("--seconds", flags.seconds, at_least=0.1, at_most=3600)
    check_number("--switches", flags.switches, at_least=0)
    folder = None if target is None else Path(target)
    is_run = folder is not None and (folder / CONFIG_FILE).is_file()
    if flags.out is not None:
        if flags.stage not in ("tracking", "all"):
            raise UserError(f"--out is for --stage tracking or all, not {flags.stage}")
        (check_out if is_run or flags.stage == "tracking" else check_report_folder)(flags.out)
    if not (flags.model is None and flags.policy is None) and flags.stage not in ("tracking", "all"):
        raise UserError(f"--model and --policy are for --stage tracking, not {flags.stage}")
    check_seed(flags.seed)
    torch.set_num_threads(flags.threads)
    if folder is not None and is_run:
        if flags.stage not in ("tracking", "all"):
            raise UserError(f"{target} is no bundle: only --stage tracking works on a run of train_lowlevel")
        return _tracking(folder, flags)
    bundle = load_bundle(resolve_bundle(target))
    find_root(get_dataset(flags.data or bundle.meta.data), flags.data_root)
    head: dict[str, Value] = {"bundle": bundle.meta.name, "hz": bundle.meta.hz, "seed": float(flags.seed)}
    if flags.stage == "tracking":
        return {**head, **_tracking(bundle.path / "low_level", flags)}
    data = load_dataset(flags.data or bundle.meta.data, flags.data_root, hz=bundle.meta.hz)
    jury = assemble(bundle, data, flags)
    if flags.stage != "all":
        return {**head, **_stage(flags.stage, bundle, data, jury, flags)}
    inner = flags if flags.out is None else replace(flags, out=flags.out / TRACKING)
    report: dict[str, Value] = {**head, "data_set": data.name, "evaluators": len(jury.evaluators)}
    for stage in STAGES[:-1]:
        report[stage] = _stage(stage, bundle, data, jury, flags)
    report["tracking"] = _tracking(bundle.path / "low_level", inner)
    if flags.out is not None:
        report["files"] = [str(path) for path in write_stack_report(flags.out, report)]
    return report


def assemble(bundle: Bundle, data: MotionData, flags: EvaluateStackFlags) -> Jury:
    """Fit the judge to the training clips, load the evaluators, cut the held-out clips.

    Raises:
        UserError: If an evaluator is missing, damaged, or was trained on other actions.
    """
    judge = fit_classifier(data.train)
    folders = flags.evaluator or shipped_evaluators(data.name)
    if not folders:
        logger.warning(
            "no motion evaluator comes with data set %s: recall, Frechet distance and diversity are left out; "
            "motionlex train-evaluator --data %s makes one for --evaluator",
            *(data.name, data.name),
        )
    return Jury(
        judge=judge,
        robot=get_robot(bundle.meta.robot),
        evaluators=load_evaluators(folders, judge.labels),
        real=tuple(cut_takes(data.validation or data.train, flags.prompt_seconds)),
        longest_s=flags.prompt_seconds,
        seed=flags.seed,
    )


def _stage(stage: str, bundle: Bundle, data: MotionData, jury: Jury, flags: EvaluateStackFlags) -> dict[str, Value]:
    clips = data.validation or data.train
    logger.info("stage %s", stage)
    if stage == "reconstruction":
        return evaluate_reconstruction(bundle, jury, clips, seed=flags.seed)
    if stage == "data":
        return evaluate_data(jury, clips)
    config = EvaluationConfig(
        prompts_per_action=flags.prompts,
        prompt_s=flags.prompt_seconds,
        survival_rollouts=flags.survival_rollouts,
        sensitivity=flags.sensitivity,
        switches=flags.switches,
        seed=flags.seed,
    )
    evaluate = evaluate_generated if stage == "generated" else evaluate_simulated
    return evaluate(bundle, jury, bundle_encoder(bundle), config)


def _tracking(folder: Path, flags: EvaluateStackFlags) -> dict[str, Value]:
    """Roll the low-level policy of a run or a bundle out along motions and compare."""
    config = load_low_level_config(folder)
    vae = folder.parent / "vae"
    if (vae / CONFIG_FILE).is_file() and folder.name == "low_level":
        config = replace(config, vae=str(vae))
    robot = get_robot(config.robot)
    root = flags.data_root or (None if config.data_root is None else Path(config.data_root))
    data = load_dataset(flags.data or config.data, root, hz=config.task.hz)
    if named := flags.clips or config.clips:
        clips = select_clips(data.clips, named)
    else:
        clips = data.validation if flags.split == "validation" and data.validation else data.train
    own_data = flags.data in (None, config.data)
    if config.prepare if own_data else flags.data == "lafan1":  # other data as train_lowlevel would take them
        clips = tuple(settle(smooth(clip), robot) for clip in clips)
    logger.info("stage tracking")
    library = MotionLibrary(clips, robot, config.task.hz)
    task, _ = build_task(config, library, "cpu", code_seed=fresh_codes(flags.seed))
    report = evaluate_tracking(
        LowLevelPolicy.load(folder) if flags.policy is None else exported_policy(flags.policy, config.task),
        library,
        task.command,
        robot=robot,
        config=config.task,
        per_run=flags.starts,
        seconds=flags.seconds,
        threads=flags.threads,
        repeats=flags.repeats,
        noise=flags.noise,
        seed=flags.seed,
        randomisation=Randomisation.preset(flags.randomise),
        model=None if flags.model is None else transfer_model(flags.model, robot, config.task),
    )
    given = {name: str(path) for name, path in (("model", flags.model), ("policy", flags.policy)) if path is not None}
    result = {"goal": config.task.goal, "split": "named clips" if named else flags.split, **given, **report}
    if flags.out is not None:
        files = write_report(
            flags.out,
            result,
            title=f"{folder.parent.name}/{folder.name}, goal {config.task.goal}, {config.task.hz:g} Hz",
        )
        from motionlex.controllers.low_level_figures import draw_curves  # matplotlib is slow to import

        curves = draw_curves([folder], flags.out / CURVES)
        result["files"] = [str(path) for path in (*files, curves) if path is not None]
    return result
