"""``motionlex evaluate-stack``: choose stages, load what they need, collect their reports."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from motionlex.controllers.bundle import META, Bundle, bundle_encoder, load_bundle, resolve_bundle
from motionlex.controllers.evaluation import (
    EvaluationConfig,
    evaluate_data,
    evaluate_generated,
    evaluate_reconstruction,
)
from motionlex.controllers.evaluation_files import attribution, check_report_folder, paired, write_stack_report
from motionlex.controllers.evaluation_flags import EvaluateStackFlags
from motionlex.controllers.evaluation_scores import Jury, Value
from motionlex.controllers.evaluation_simulated import evaluate_simulated
from motionlex.controllers.evaluation_takes import cut_takes
from motionlex.controllers.motion_classifier import fit_classifier
from motionlex.controllers.motion_evaluator import load_evaluators, shipped_evaluators
from motionlex.controllers.tracking_report import check_out
from motionlex.controllers.tracking_stage import tracking_stage
from motionlex.data.clip import MotionClip
from motionlex.data.datasets import MotionData, find_root, get_dataset, load_dataset
from motionlex.data.errors import UserError, check_number, check_seed
from motionlex.data.robots import get_robot
from motionlex.data.storage import file_sha256
from motionlex.motion_vae.checkpoint import CONFIG_FILE, provenance

logger = logging.getLogger(__name__)
TRACKING = "tracking"
"""Folder of the tracker's own report inside that of all stages."""
STAGES = ("data", "reconstruction", "generated", "simulated", "tracking")


def evaluate_stack(target: str | None, flags: EvaluateStackFlags) -> Mapping[str, Value]:
    """Evaluate a bundle or a run.

    Args:
        target: Folder of a bundle or run; None takes the built-in bundle.
        flags: What to evaluate.

    Returns:
        With one stage its keys, with ``all`` one object per stage, and ``attribution``.

    Raises:
        UserError: On an unknown bundle, run or data set.
    """
    check_number("--prompts", flags.prompts, above=0)
    check_number("--threads", flags.threads, above=0)
    check_number("--survival-rollouts", flags.survival_rollouts, at_least=0)
    check_number("--prompt-seconds", flags.prompt_seconds, at_least=2, at_most=3600)
    check_number("--starts", flags.starts, at_least=1, at_most=1000)
    check_number("--spread", flags.spread, at_least=1, at_most=100_000)
    check_number("--repeats", flags.repeats, at_least=1, at_most=100_000)
    check_number("--seconds", flags.seconds, at_least=0.1, at_most=3600)
    check_number("--plans", flags.plans, at_least=0, at_most=100_000)
    check_number("--path-repeats", flags.path_repeats, at_least=1, at_most=1000)
    check_number("--switches", flags.switches, at_least=0)
    folder = None if target is None else Path(target)
    is_run = folder is not None and (folder / CONFIG_FILE).is_file()
    if flags.out is not None:
        if flags.stage not in ("tracking", "all"):
            raise UserError(f"--out is for --stage tracking or all, not {flags.stage}")
        (check_out if is_run or flags.stage == "tracking" else check_report_folder)(flags.out)
    if flags.plans and flags.stage != "tracking":
        raise UserError(f"--plans is for --stage tracking, not {flags.stage}")
    if flags.spread is not None and flags.stage not in ("tracking", "all"):
        raise UserError(f"--spread is for --stage tracking, not {flags.stage}")
    if not (flags.model is None and flags.policy is None) and flags.stage not in ("tracking", "all"):
        raise UserError(f"--model and --policy are for --stage tracking, not {flags.stage}")
    check_seed(flags.seed)
    torch.set_num_threads(flags.threads)
    if folder is not None and is_run:
        if flags.stage not in ("tracking", "all"):
            raise UserError(f"{target} is no bundle: only --stage tracking works on a run of train_lowlevel")
        return tracking_stage(folder, flags)
    bundle = load_bundle(resolve_bundle(target))
    if not flags.plans:
        find_root(get_dataset(flags.data or bundle.meta.data), flags.data_root)
    head = _head(bundle, flags)
    if flags.stage == "tracking":
        return {**head, **tracking_stage(bundle.path / "low_level", flags)}
    data = load_dataset(flags.data or bundle.meta.data, flags.data_root, hz=bundle.meta.hz)
    clips, split = scored_clips(data)
    head["split"] = split
    jury = assemble(bundle, data, clips, flags)
    if flags.stage != "all":
        return {**head, **_stage(flags.stage, bundle, clips, jury, flags)}
    inner = flags if flags.out is None else replace(flags, out=flags.out / TRACKING)
    report: dict[str, Value] = {**head, "data_set": data.name, "evaluators": len(jury.evaluators)}
    for stage in STAGES[:-1]:
        report[stage] = _stage(stage, bundle, clips, jury, flags)
    pairs = paired(report)
    report["attribution"] = {
        stage: {"accuracy_lost": lost, "paired": pairs[stage]} for stage, lost in attribution(report).items()
    }
    report["tracking"] = tracking_stage(bundle.path / "low_level", inner)
    if flags.out is not None:
        report["files"] = [str(path) for path in write_stack_report(flags.out, report)]
    return report


def _head(bundle: Bundle, flags: EvaluateStackFlags) -> dict[str, Value]:
    """What was evaluated, by what: the digest is that of the card, which holds those of all other files."""
    device = str(next(bundle.latent_policy.parameters()).device)
    return {
        "bundle": bundle.meta.name,
        "bundle_sha256": file_sha256(bundle.path / META),
        "hz": bundle.meta.hz,
        "seed": float(flags.seed),
        "provenance": {**provenance(), "device": device},
    }


def scored_clips(data: MotionData) -> tuple[tuple[MotionClip, ...], str]:
    """Return the held-out clips of a data set and ``validation``; with a warning, its training clips and ``train``."""
    if data.validation:
        return data.validation, "validation"
    logger.warning(
        "data set %s holds no clips out: its training clips are scored, which the judge, and perhaps the bundle, have "
        "learned from",
        data.name,
    )
    return data.train, "train"


def assemble(bundle: Bundle, data: MotionData, clips: Sequence[MotionClip], flags: EvaluateStackFlags) -> Jury:
    """Fit the judge to the training clips, load the evaluators, cut the clips that motion is compared with.

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
        real=tuple(cut_takes(clips, flags.prompt_seconds)),
        longest_s=flags.prompt_seconds,
        seed=flags.seed,
    )


def _stage(
    stage: str, bundle: Bundle, clips: Sequence[MotionClip], jury: Jury, flags: EvaluateStackFlags
) -> dict[str, Value]:
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
        path_repeats=flags.path_repeats,
        switches=flags.switches,
        seed=flags.seed,
    )
    evaluate = evaluate_generated if stage == "generated" else evaluate_simulated
    return evaluate(bundle, jury, bundle_encoder(bundle).encode, config)
