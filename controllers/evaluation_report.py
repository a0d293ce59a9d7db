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
    Value,
    evaluate_data,
    evaluate_generated,
    evaluate_reconstruction,
    evaluate_simulated,
)
from motionlex.controllers.evaluation_tracking import evaluate_tracking
from motionlex.controllers.export import exported_policy
from motionlex.controllers.low_level_config import select_clips
from motionlex.controllers.low_level_policy import LowLevelPolicy
from motionlex.controllers.low_level_setup import build_task, load_low_level_config
from motionlex.controllers.motion_classifier import fit_classifier
from motionlex.controllers.stack import bundle_encoder
from motionlex.controllers.tracking_report import CURVES, check_out, write_report
from motionlex.data.datasets import find_root, get_dataset, load_dataset
from motionlex.data.errors import UserError, check_number, check_seed
from motionlex.data.robots import get_robot
from motionlex.envs.randomisation import Preset, Randomisation
from motionlex.envs.reference import MotionLibrary, settle, smooth
from motionlex.envs.transfer import transfer_model
from motionlex.motion_vae.checkpoint import CONFIG_FILE

logger = logging.getLogger(__name__)
Stage = Literal["data", "reconstruction", "generated", "simulated", "tracking", "all"]
CODE_SEED = 1_618_033_989
"""Added to --seed for the draws of the codes under --stage tracking: training draws from its own seed and a little more
(every draw adds 7919), so that it has seen none of these. It fits into the 32 bits that torch takes of a seed."""
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
    """Folder for the report of --stage tracking: tracking.json, .md and .png, and curves.png of a run's training."""
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
    if flags.out is not None:
        if flags.stage not in ("tracking", "all"):
            raise UserError(f"--out is for --stage tracking, not {flags.stage}")
        check_out(flags.out)
    if not (flags.model is None and flags.policy is None) and flags.stage not in ("tracking", "all"):
        raise UserError(f"--model and --policy are for --stage tracking, not {flags.stage}")
    check_seed(flags.seed)
    torch.set_num_threads(flags.threads)
    folder = None if target is None else Path(target)
    if folder is not None and (folder / CONFIG_FILE).is_file():
        if flags.stage not in ("tracking", "all"):
            raise UserError(f"{target} is no bundle: only --stage tracking works on a run of train_lowlevel")
        return _tracking(folder, flags)
    bundle = load_bundle(resolve_bundle(target))
    find_root(get_dataset(flags.data or bundle.meta.data), flags.data_root)
    stages = STAGES if flags.stage == "all" else (flags.stage,)
    reports = {stage: _stage(stage, bundle, flags) for stage in stages}
    head: dict[str, Value] = {"bundle": bundle.meta.name, "hz": bundle.meta.hz, "seed": float(flags.seed)}
    return {**head, **(reports if flags.stage == "all" else reports[flags.stage])}


def _stage(stage: str, bundle: Bundle, flags: EvaluateStackFlags) -> dict[str, Value]:
    if stage == "tracking":
        return dict(_tracking(bundle.path / "low_level", flags))
    data = load_dataset(flags.data or bundle.meta.data, flags.data_root, hz=bundle.meta.hz)
    clips = data.validation or data.train
    logger.info("stage %s", stage)
    judge = fit_classifier(data.train)
    if stage == "reconstruction":
        return evaluate_reconstruction(bundle, judge, clips, seed=flags.seed)
    if stage == "data":
        return evaluate_data(judge, clips)
    config = EvaluationConfig(
        prompts_per_action=flags.prompts,
        prompt_s=flags.prompt_seconds,
        survival_rollouts=flags.survival_rollouts,
        seed=flags.seed,
    )
    evaluate = evaluate_generated if stage == "generated" else evaluate_simulated
    return evaluate(bundle, judge, bundle_encoder(bundle), config)


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
    task, _ = build_task(config, library, "cpu", code_seed=(flags.seed + CODE_SEED) % 2**32)
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
