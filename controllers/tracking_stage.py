"""``motionlex evaluate-stack --stage tracking``: the low-level policy alone, along clips or along plans."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace
from pathlib import Path

from motionlex.controllers.command_tours import ScriptConfig
from motionlex.controllers.evaluation_flags import EvaluateStackFlags
from motionlex.controllers.evaluation_scores import Value
from motionlex.controllers.evaluation_tracking import evaluate_tracking
from motionlex.controllers.export import exported_policy
from motionlex.controllers.generated import generate
from motionlex.controllers.generated_library import check_high_level, generated_command, generated_library
from motionlex.controllers.high_level import load_high_level
from motionlex.controllers.low_level_config import LowLevelConfig, select_clips
from motionlex.controllers.low_level_policy import LowLevelPolicy
from motionlex.controllers.low_level_setup import build_task, cut_clips, fresh_codes, load_low_level_config
from motionlex.controllers.tracking_report import CURVES, write_report
from motionlex.data.datasets import load_dataset
from motionlex.data.errors import UserError
from motionlex.data.robots import get_robot
from motionlex.envs.randomisation import Randomisation
from motionlex.envs.reference import CommandSource, MotionLibrary
from motionlex.envs.transfer import transfer_model
from motionlex.motion_vae.checkpoint import CONFIG_FILE

logger = logging.getLogger(__name__)
CLIP_S, PLAN_S = 10.0, 30.0
"""Longest rollout along clips and along plans unless told otherwise [s]."""
SHORTEST_S, LONGEST_S = 4.8, 5.2
"""Time for which a command of a plan holds [s]."""
LED_SHARE = 0.5
"""Share of the plans in which walking commands are led."""


@dataclass(frozen=True, kw_only=True)
class _Motions:
    """What is followed."""

    name: str
    """What the report calls it."""
    library: MotionLibrary
    """The motions."""
    command: CommandSource | None
    """What the policy is shown of them."""
    starts: tuple[int, ...] | None
    """Library frames to start at; None spreads starts evenly."""


def tracking_stage(folder: Path, flags: EvaluateStackFlags) -> dict[str, Value]:
    """Roll the low-level policy of a run or a bundle out along motions and compare.

    Args:
        folder: Run of train_lowlevel, or the low-level part of a bundle.
        flags: What to evaluate.

    Raises:
        UserError: On an unknown data set or clip, or plans where no high-level policy is at hand.
    """
    config = load_low_level_config(folder)
    bundle = folder.parent if folder.name == "low_level" and (folder.parent / "vae" / CONFIG_FILE).is_file() else None
    if bundle is not None:
        config = replace(config, vae=str(bundle / "vae"))
    seconds = flags.seconds or (PLAN_S if flags.plans else CLIP_S)
    motions = _plans(folder, bundle, config, seconds, flags) if flags.plans else _clips(config, flags)
    robot = motions.library.robot
    logger.info("stage tracking")
    report = evaluate_tracking(
        LowLevelPolicy.load(folder) if flags.policy is None else exported_policy(flags.policy, config.task),
        motions.library,
        motions.command,
        robot=robot,
        config=config.task,
        per_run=flags.starts,
        seconds=seconds,
        threads=flags.threads,
        starts=motions.starts,
        spread=flags.spread,
        repeats=flags.repeats,
        noise=flags.noise,
        seed=flags.seed,
        randomisation=Randomisation.preset(flags.randomise),
        model=None if flags.model is None else transfer_model(flags.model, robot, config.task),
    )
    given = {name: str(path) for name, path in (("model", flags.model), ("policy", flags.policy)) if path is not None}
    result = {"goal": config.task.goal, "split": motions.name, **given, **report}
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


def _clips(config: LowLevelConfig, flags: EvaluateStackFlags) -> _Motions:
    """Load the clips that were asked for, and codes of them that training has not seen."""
    robot = get_robot(config.robot)
    root = flags.data_root or (None if config.data_root is None else Path(config.data_root))
    data = load_dataset(flags.data or config.data, root, hz=config.task.hz)
    if named := flags.clips or config.clips:
        clips = select_clips(data.clips, named)
    else:
        clips = data.validation if flags.split == "validation" and data.validation else data.train
    own_data = flags.data in (None, config.data)
    prepare = config.prepare if own_data else flags.data == "lafan1"  # other data as train_lowlevel would take them
    library = cut_clips(clips, robot, config.task.hz, prepare=prepare, named=flags.clips)
    task, _ = build_task(config, library, "cpu", code_seed=fresh_codes(flags.seed))
    name = "named clips" if named else flags.split
    return _Motions(name=name, library=library, command=task.command, starts=None)


def _plans(
    folder: Path, bundle: Path | None, config: LowLevelConfig, seconds: float, flags: EvaluateStackFlags
) -> _Motions:
    """Let the high-level policy make up motions that training has not seen; each is followed from its beginning."""
    for name in ("clips", "data", "data_root", "spread"):
        if getattr(flags, name):
            flag = f"--{name.replace('_', '-')}"
            raise UserError(f"--plans takes the place of {flag}: give one of them")
    if bundle is None and config.generated is None:
        raise UserError(f"--plans needs a bundle or a run that was trained with --generated; {folder} is neither")
    source = load_high_level(Path(config.generated) if bundle is None else bundle)
    check_high_level(source, robot=config.robot, task=config.task, vae=config.vae)
    commands = max(2, math.ceil(seconds / SHORTEST_S))
    script = ScriptConfig(
        minutes=flags.plans * commands * 0.5 * (SHORTEST_S + LONGEST_S) / 60.0,
        shortest_s=SHORTEST_S,
        longest_s=LONGEST_S,
        commands=commands,
        led_share=LED_SHARE,
    )
    motion = generate(source, script, seed=fresh_codes(flags.seed))
    library = generated_library(motion)
    command = generated_command(motion, library, config.task.goal, config.task.ahead)
    starts = library.run_starts[library.clip_frame[library.run_starts] == 0]
    if len(starts) < flags.plans:
        logger.warning("%d of %d plans begin implausibly and are left out", flags.plans - len(starts), flags.plans)
    return _Motions(name="plans", library=library, command=command, starts=tuple(starts.tolist()))
