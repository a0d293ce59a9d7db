"""What a low-level run is made of: its motions, its task and its policy, all from its configuration."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch

from motionlex.controllers.commands import build_command_source, decoded_errors
from motionlex.controllers.generated import GeneratedMotion
from motionlex.controllers.generated_library import add_generated
from motionlex.controllers.low_level_config import LowLevelConfig, select_clips
from motionlex.controllers.low_level_policy import LowLevelPolicy, PolicyShape, read_plain
from motionlex.data.clip import MotionClip
from motionlex.data.datasets import load_dataset
from motionlex.data.errors import UserError
from motionlex.data.robots import Robot, get_robot
from motionlex.data.storage import file_sha256
from motionlex.envs.reference import MINIMUM_RUN, MotionLibrary, settle, smooth, valid_runs
from motionlex.envs.task import TrackingTask
from motionlex.envs.task_config import TaskConfig
from motionlex.motion_vae import checkpoint, distributed
from motionlex.motion_vae.checkpoint import load_run
from motionlex.motion_vae.training import data_hash

logger = logging.getLogger(__name__)
_NAMES_SHOWN = 5
"""Clips that a warning names before it counts the others."""


def load_low_level_config(folder: Path) -> LowLevelConfig:
    """Read config.json of a run.

    Raises:
        UserError: If the folder is not a run.
    """
    path = Path(folder) / checkpoint.CONFIG_FILE
    if not path.is_file():
        raise UserError(f"{folder} is not a run of train_lowlevel: it has no {checkpoint.CONFIG_FILE}")
    return checkpoint.read_config(LowLevelConfig, read_plain(path), folder, "train_lowlevel")


def load_library(
    config: LowLevelConfig, data_root: Path | None = None, *, named: Sequence[str] = ()
) -> tuple[MotionLibrary, str]:
    """Load, prepare and cut the motions of a run; also return the hash of the clips.

    Args:
        config: The run.
        data_root: Folder of its data set, None for where it was.
        named: ``config.clips`` if the user names them now, see :func:`cut_clips`; empty for a run that there is.

    Raises:
        UserError: On unknown clips or unusable data.
    """
    robot = get_robot(config.robot)
    root = data_root or (None if config.data_root is None else Path(config.data_root))
    data = load_dataset(config.data, root, hz=config.task.hz)
    clips = select_clips(data.clips, config.clips) if config.clips else data.train
    digest = data_hash(clips)
    return cut_clips(clips, robot, config.task.hz, prepare=config.prepare, named=named), digest


def cut_clips(
    clips: Sequence[MotionClip], robot: Robot, hz: float, *, prepare: bool, named: Sequence[str] = ()
) -> MotionLibrary:
    """Prepare clips and cut them into stretches of valid frames; those that are too short for one are told of.

    Args:
        clips: Motions of the robot.
        robot: Whose motions they are.
        hz: Their rate, which is the control rate [1/s].
        prepare: Whether they are smoothed and set on the floor.
        named: The clips as the user named them, one by one, or nothing: what is asked for is not left out.

    Raises:
        UserError: If a clip that the user named is too short, or all clips are.
    """
    need = f"at least {MINIMUM_RUN} valid frames ({MINIMUM_RUN / hz:.2f} s)"
    for name, clip in zip(named, clips):
        if not valid_runs(clip):
            raise UserError(f"--clips {name}: no stretch of {need} in the clip; name a longer part, or leave it out")
    if prepare:
        # What is not used may have no valid frame to be settled by.
        clips = tuple(settle(smooth(clip), robot) if valid_runs(clip) else clip for clip in clips)
    library = MotionLibrary(clips, robot, hz)
    if library.unused and distributed.rank() == 0:  # one process tells it for all
        shown, others = library.unused[:_NAMES_SHOWN], len(library.unused) - _NAMES_SHOWN
        logger.warning(
            "clips without a stretch of %s are left out (%d of %d): %s%s",
            *(need, len(library.unused), len(clips), ", ".join(shown), f" and {others} more" if others > 0 else ""),
        )
    return library


def input_digests(config: LowLevelConfig, motions: str, generated: GeneratedMotion | None) -> dict[str, str]:
    """Return hashes of everything outside the run that training depends on: a resume compares them.

    Args:
        config: The run.
        motions: Hash of its clips.
        generated: Motions of a high-level policy, if there are some.
    """
    found = {"data_sha256": motions}
    if generated is not None:
        found["generated_sha256"] = generated.key
    weights = None if config.vae is None else Path(config.vae) / checkpoint.WEIGHTS_FILE
    # One that is missing is reported in words where it is loaded.
    if weights is not None and config.task.goal != "reference" and weights.is_file():
        found["vae_sha256"] = file_sha256(weights)
    return found


def fresh_codes(seed: int, purpose: Literal["evaluation", "scores"] = "evaluation") -> int:
    """Return a seed for draws of the codes that no training with this seed, or one near it, has seen.

    Every draw of a training adds 7919 to its seed; the numbers here are far from all of them and from each other, and
    the result fits into the 32 bits that torch takes of a seed.

    Args:
        seed: That of the training.
        purpose: The evaluation at the end, or the scores on the way, by which a training may end.
    """
    return (seed + {"evaluation": 1_618_033_989, "scores": 2_718_281_828}[purpose]) % 2**32


def build_task(
    config: LowLevelConfig,
    library: MotionLibrary,
    device: str,
    *,
    draws: int = 1,
    generated: GeneratedMotion | None = None,
    code_seed: int | None = None,
) -> tuple[TrackingTask, torch.Tensor | None]:
    """Build the task with its command; also return the codebook for goal latent.

    Args:
        config: The run.
        library: Motions of the data set.
        device: Torch device of the autoencoder.
        draws: Draws of the codes of every segment: training wants ``config.code_draws``, evaluation one.
        generated: Motions of a high-level policy that are to be trained on as well; evaluation wants none.
        code_seed: Seed of the draws of the codes; None takes that of training, ``config.seed``.
    """
    seed = config.seed if code_seed is None else code_seed
    autoencoder = None if config.vae is None or config.task.goal == "reference" else load_run(config.vae, device)
    command = build_command_source(
        config.task.goal, library, autoencoder, ahead=config.task.ahead, seed=seed, variants=draws
    )
    if config.task.goal == "decoded":
        for name, value in decoded_errors(library, command).items():
            logger.info("%s %.4g", name, value)
    if generated is not None:
        library, command = add_generated(library, command, generated, config.task, config.generated_share)
    task = TrackingTask(library.robot, library, config.task, command)
    if autoencoder is None or config.task.goal != "latent":
        return task, None
    if autoencoder.model.codebook is None:
        raise UserError(
            f"goal latent needs one codebook, and method {autoencoder.config.method!r} has none: "
            "use goal decoded, or another method"
        )
    return task, autoencoder.model.codebook.detach().cpu()


def build_policy(config: LowLevelConfig, task: TrackingTask, codebook: torch.Tensor | None) -> LowLevelPolicy:
    """Build the initial policy from the seed, or from ``config.init``.

    Raises:
        UserError: If the initial weights have another layout, or were trained for another task.
    """
    shape = PolicyShape(
        observation=task.policy_size,
        critic_observation=task.observation_size,
        actions=task.actions,
        action_limit=task.action_limit,
        hidden=config.hidden,
        initial_std=config.ppo.initial_std,
        tokens=0 if task.command.codes is None else task.command.codes.shape[2],
        vocabulary=0 if codebook is None else codebook.shape[0],
        code_width=0 if codebook is None else codebook.shape[1],
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        policy = LowLevelPolicy(shape, config.task)
    if config.init is not None:
        _start_from(policy, Path(config.init))
    if codebook is not None:  # after the weights: those hold the codebook that they were trained with
        policy.set_codebook(codebook)
    return policy


def _start_from(policy: LowLevelPolicy, folder: Path) -> None:
    """Load weights of another run, whose observations and actions must mean the same.

    Goals reference and decoded have one layout and may start from each other.
    """
    other = LowLevelPolicy.load(folder)
    check_same_meaning(other.task, policy.task, f"--init {folder}: that policy was trained for another task")
    try:
        policy.load_state_dict(other.state_dict())
    except RuntimeError as error:
        raise UserError(f"--init {folder}: its networks differ from this run's: {error}") from error


def check_same_meaning(there: TaskConfig, here: TaskConfig, problem: str) -> None:
    """Refuse policies whose observations or actions mean different things.

    Args:
        there: Task of a policy whose weights are used.
        here: Task that they are used for.
        problem: How the message begins.

    Raises:
        UserError: If they differ; the message says in what.
    """
    theirs, ours = _meaning(there), _meaning(here)
    differ = [f"{name} is {theirs[name]} there and {ours[name]} here" for name in ours if theirs[name] != ours[name]]
    if differ:
        raise UserError(f"{problem}: {', '.join(differ)}")


def _meaning(task: TaskConfig) -> dict[str, object]:
    """Return what decides the meaning of a policy's observations and actions."""
    latent, servos = task.goal == "latent", task.control == "pd"
    return {
        "goal": "latent" if latent else "reference or decoded",
        "control": task.control,
        "hz": task.hz,
        "ahead": task.ahead,
        "residual_scale": task.residual_scale if servos and not latent else None,
        "absolute_scale": task.absolute_scale if servos and latent else None,
        "action_limit": task.action_limit if servos else 1.0,
    }
