"""Generated motion as something to train on: a library to follow, and the command that belongs to it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from motionlex.controllers.command_tours import ScriptConfig
from motionlex.controllers.commands import STRIDE, look_ahead
from motionlex.controllers.generated import GeneratedMotion, generate
from motionlex.controllers.high_level import HighLevel, load_high_level
from motionlex.controllers.low_level_config import LowLevelConfig
from motionlex.data.errors import UserError
from motionlex.data.storage import file_sha256
from motionlex.envs.joining import join_commands, join_libraries
from motionlex.envs.reference import CommandSource, MotionLibrary, reference_command, smooth
from motionlex.envs.task_config import Goal, TaskConfig
from motionlex.motion_vae.checkpoint import WEIGHTS_FILE


def generated_library(motion: GeneratedMotion) -> MotionLibrary:
    """Return the plans as motions to follow, smoothed (20 ms) as recordings are, which also rounds off the seams."""
    return MotionLibrary([smooth(plan.clip) for plan in motion.plans], motion.robot, motion.source.hz)


def generated_command(
    motion: GeneratedMotion, library: MotionLibrary, goal: Goal, ahead: tuple[int, ...]
) -> CommandSource:
    """Return what the running stack shows the tracker while it plans this motion.

    Args:
        motion: The plans.
        library: :func:`generated_library` of the same motion, or another library of its clips in the same order.
        goal: What to show; ``reference`` shows the library itself.
        ahead: Look-ahead of the command frames [frames].
    """
    if goal == "reference":
        return reference_command(library, ahead)
    segments = np.concatenate(([0], np.cumsum([len(plan.starts) for plan in motion.plans])))
    frames = np.concatenate(([0], np.cumsum([plan.clip.frames for plan in motion.plans])))
    starts = np.concatenate([plan.starts + first for plan, first in zip(motion.plans, frames[:-1], strict=True)])
    place = frames[library.clip_of(np.arange(library.frames))] + library.clip_frame
    segment = np.searchsorted(starts, place, side="right") - 1
    local = place - starts[segment]
    assert len(starts) == segments[-1]
    if goal == "latent":
        codes = np.concatenate([plan.codes for plan in motion.plans]).astype(np.int64)[None]
        vocabulary = motion.source.autoencoder.model.vocabulary
        return CommandSource(codes=codes, segment=segment, phase=local / STRIDE, vocabulary=vocabulary)
    qpos = np.concatenate([plan.qpos.reshape(-1, plan.qpos.shape[2]) for plan in motion.plans])
    qvel = np.concatenate([plan.qvel.reshape(-1, plan.qvel.shape[2]) for plan in motion.plans])
    rows = look_ahead(segment, local, ahead)
    return CommandSource(qpos=qpos, qvel=qvel, rows=rows, segment=segment, phase=local / STRIDE)


def add_generated(
    library: MotionLibrary, command: CommandSource, motion: GeneratedMotion, task: TaskConfig, share: float
) -> tuple[MotionLibrary, CommandSource]:
    """Append generated motion to a data set's; frames, runs and segments of the data keep their numbers.

    Args:
        library: Motions of the data set.
        command: What is shown of them.
        motion: What to append.
        task: Goal and look-ahead.
        share: Share of the episodes that start in generated motion, in (0, 1).

    Returns:
        Both libraries as one, and its command.
    """
    more = generated_library(motion)
    joined = join_libraries(library, more, share=share)
    if task.goal == "reference":
        return joined, reference_command(joined, task.ahead)
    return joined, join_commands(command, generated_command(motion, more, task.goal, task.ahead))


def load_generated(config: LowLevelConfig) -> GeneratedMotion | None:
    """Let the high-level policy of a run of train_lowlevel make up its motions; None where it has none.

    Raises:
        UserError: If it is not there, or the low-level policy could not follow its motions.
    """
    if config.generated is None:
        return None
    script = ScriptConfig(minutes=config.generated_minutes)
    source = load_high_level(Path(config.generated))
    check_high_level(source, robot=config.robot, task=config.task, vae=config.vae)
    return generate(source, script, seed=config.seed)


def check_high_level(source: HighLevel, *, robot: str, task: TaskConfig, vae: str | None) -> None:
    """Refuse a high-level policy whose motions the low-level policy cannot follow.

    Args:
        source: The high-level policy.
        robot: Robot of the low-level policy.
        task: Its task.
        vae: Autoencoder run of its codes.

    Raises:
        UserError: On another robot, another rate, or (goal latent) another autoencoder.
    """
    name = f"--generated {source.path}"
    if source.robot != robot:
        raise UserError(f"{name} moves robot {source.robot!r}, the low-level policy {robot!r}")
    if abs(source.hz - task.hz) > 1e-9:
        raise UserError(f"{name} plans at {source.hz:g} Hz, control is {task.hz:g} Hz: give --hz {source.hz:g}")
    if task.goal == "latent" and vae is not None:
        if file_sha256(Path(vae) / WEIGHTS_FILE) != source.vae_sha256:
            raise UserError(f"{name} chooses codes of another autoencoder than --vae {vae}: they mean other motions")
