"""Motions that the high-level policy makes up: what the stack will ask of the low-level policy at run time.

Random text commands, some with a path to follow, are planned without physics: every 16 frames a segment is chosen,
decoded, placed where the plan stands and faded in, as ``stack.py`` does; commands begin with a segment. What the
low-level policy is then shown (placed frames, or codes and their phase) and the motion it is rewarded for (the executed
frames of the segments, one after the other) belong together.

At run time the stack also moves the plan rigidly, when the robot is more than 0.15 m or 0.2 rad away from it as a
segment begins. Here the plan stays where it is, on purpose: codes do not depend on the place (goal latent sees no
root at all, and its reference follows the robot), and for goal decoded moving the plan only makes
offsets smaller than those that training allows (0.5 m before an episode ends). So every observation of the running
stack also occurs in training, and in training it does not pay to drift away from the plan.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from motionlex.controllers.command_tours import Script, ScriptConfig, random_scripts
from motionlex.controllers.high_level import HighLevel
from motionlex.controllers.latent_data import REPLAN_FRAMES
from motionlex.controllers.led_commands import action_velocities, lead
from motionlex.controllers.script_planning import Rows, plan_scripts
from motionlex.controllers.text import TextEncoder, TextFunction
from motionlex.data.captions import training_captions
from motionlex.data.clip import LabelSpan, MotionClip
from motionlex.data.errors import UserError
from motionlex.data.robots import Robot, get_robot
from motionlex.data.storage import cached_arrays, content_key
from motionlex.envs.kinematics import SiteKinematics

logger = logging.getLogger(__name__)
VERSION = 3
"""Raised whenever the same settings give other motions: old ones in the cache are then left alone."""


@dataclass(frozen=True, kw_only=True)
class PlausibilityLimits:
    """Motion beyond these is not asked of a robot; recordings stay well below, and plans do but for rare jumps."""

    root_speed: float = 8.0
    """Root [m/s]."""
    joint_speed: float = 40.0
    """Fastest hinge from one frame to the next [rad/s]; twice what is left of such a step after smoothing."""
    penetration: float = 0.06
    """Lowest foot below where it is when standing [m]."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One script as it was planned."""

    clip: MotionClip
    """The executed frames, labelled with the actions of the commands; implausible stretches are masked."""
    starts: Int[np.ndarray, " segment"]
    """Frame of the clip at which each segment takes over."""
    codes: Int[np.ndarray, "segment token"]
    """Codes of the segments."""
    qpos: Float[np.ndarray, "segment frame coordinate"]
    """Their 32 frames as the tracker is shown them: placed and faded in."""
    qvel: Float[np.ndarray, "segment frame velocity"]
    """Their velocities."""


@dataclass(frozen=True, kw_only=True)
class GeneratedMotion:
    """Plans of many scripts."""

    plans: tuple[Plan, ...]
    """One per script."""
    source: HighLevel
    """What made them."""
    key: str
    """Digest of everything they depend on."""

    @property
    def robot(self) -> Robot:
        """The robot that moves."""
        return get_robot(self.source.robot)

    @property
    def rejected_share(self) -> float:
        """Share of the frames that are masked as implausible."""
        masks = [np.asarray(plan.clip.valid) for plan in self.plans]
        return float(1.0 - np.concatenate(masks).mean())


def generate(
    source: HighLevel,
    config: ScriptConfig,
    *,
    seed: int,
    encode: TextFunction | None = None,
    limits: PlausibilityLimits | None = None,
) -> GeneratedMotion:
    """Plan random commands, or take the plans from the cache.

    Args:
        source: High-level policy and autoencoder.
        config: How commands follow each other.
        seed: Seed of commands and codes.
        encode: Text encoder; the frozen BERT when None.
        limits: What counts as plausible.

    Raises:
        UserError: If nothing plausible comes out.
    """
    limits = PlausibilityLimits() if limits is None else limits
    scripts = random_scripts(source.actions, config, source.hz, np.random.default_rng(seed))
    settings = (*asdict(config).values(), *asdict(source.sampling).values())
    captions = tuple(caption for action in source.actions for caption in training_captions(action))
    key = content_key(VERSION, source.digest, seed, *settings, *captions, get_robot(source.robot).xml())

    led = min(round(config.led_share * len(scripts)), len(scripts) - 1)  # the others tell how fast actions are

    def make() -> Rows:
        return _plan(source, scripts, led, seed, TextEncoder(source.text_encoder).encode if encode is None else encode)

    arrays = cached_arrays(f"generated-{key}", make)
    robot = get_robot(source.robot)
    plans, first = [], 0
    for number, script in enumerate(scripts):
        count = sum(command.segments for command in script)
        rows = {name: array[first : first + count] for name, array in arrays.items()}
        kind = "generated" if number < len(scripts) - led else "led"
        plans.append(_assemble(f"{kind}_{number}", script, rows, source.hz, robot, limits))
        first += count
    motion = GeneratedMotion(plans=tuple(plans), source=source, key=key)
    _report(motion)
    return motion


def _plan(source: HighLevel, scripts: Sequence[Script], led: int, seed: int, encode: TextFunction) -> Rows:
    """Return the segments of all scripts in their order; walking commands of the last ``led`` scripts are led."""
    texts = sorted({command.text for script in scripts for command in script})
    embeddings = dict(zip(texts, encode(texts), strict=True))
    generator = torch.Generator().manual_seed(seed)
    free = scripts[: len(scripts) - led]
    planned = plan_scripts(source, free, embeddings, generator)
    if led:
        moved = zip(free, (executed_frames(rows["qpos"]) for rows in planned), strict=True)
        velocities, rng = action_velocities(moved, source.hz), np.random.default_rng([seed, led])
        leading = [lead(script, velocities, rng) for script in scripts[len(free) :]]
        planned += plan_scripts(source, leading, embeddings, generator)
    arrays = {name: np.concatenate([rows[name] for rows in planned]) for name in planned[0]}
    return {name: array.astype(np.int32 if name == "codes" else np.float32) for name, array in arrays.items()}


def executed_frames(qpos: Float[np.ndarray, "segment planned coordinate"]) -> Float[np.ndarray, "frame coordinate"]:
    """Lay the executed frames of segments end to end."""
    return np.concatenate(qpos[:, :REPLAN_FRAMES]).astype(np.float64)


def _assemble(
    name: str,
    script: Script,
    rows: Rows,
    hz: float,
    robot: Robot,
    limits: PlausibilityLimits,
) -> Plan:
    """Lay the executed frames of a script's segments end to end and mask what is implausible."""
    qpos = executed_frames(rows["qpos"])
    starts = np.arange(0, len(qpos), REPLAN_FRAMES)
    ends = np.cumsum([command.frames for command in script])
    labels = tuple(
        LabelSpan(start=int(end) - command.frames, stop=int(end), label=command.action)
        for command, end in zip(script, ends, strict=True)
    )
    good = plausible(qpos, hz, robot, limits)
    valid = np.repeat(np.logical_and.reduceat(good, starts), REPLAN_FRAMES)
    clip = MotionClip(name=name, qpos=qpos, hz=hz, labels=labels, valid=valid, source="generated", robot=robot.name)
    return Plan(clip=clip, starts=starts, codes=rows["codes"], qpos=rows["qpos"], qvel=rows["qvel"])


def plausible(
    qpos: Float[np.ndarray, "frame coordinate"], hz: float, robot: Robot, limits: PlausibilityLimits
) -> Bool[np.ndarray, " frame"]:
    """Tell which frames, and the steps to and from them, are within the limits."""
    kinematics = SiteKinematics(robot)
    feet = [index for index, name in enumerate(robot.sites) if "foot" in name]
    standing = np.concatenate(([0.0, 0.0, robot.standing_height, 1.0, 0.0, 0.0, 0.0], robot.default_pose))[None]
    sole = float(kinematics(standing)[0, feet, 2].min())
    deep = kinematics(qpos)[:, feet, 2].min(axis=1) < sole - limits.penetration
    step = np.abs(np.diff(qpos, axis=0)) * hz
    fast = (np.linalg.norm(step[:, :3], axis=1) > limits.root_speed) | (step[:, 7:].max(axis=1) > limits.joint_speed)
    return ~(deep | np.append(fast, False) | np.append(False, fast))


def switches(motion: GeneratedMotion) -> set[tuple[str, str]]:
    """Return the ordered pairs of actions of which one follows the other without a masked frame in either."""
    seen = set()
    for plan in motion.plans:
        valid = np.asarray(plan.clip.valid)
        for before, after in zip(plan.clip.labels[:-1], plan.clip.labels[1:], strict=True):
            if before.label != after.label and valid[before.start : after.stop].all():
                seen.add((before.label, after.label))
    return seen


def _report(motion: GeneratedMotion) -> None:
    seconds = sum(plan.clip.frames for plan in motion.plans) / motion.source.hz
    actions = len(motion.source.actions)
    logger.info(
        "generated motion: %.1f min in %d clips, %.1f %% rejected as implausible, %d of %d switches between actions",
        *(seconds / 60.0, len(motion.plans), 100.0 * motion.rejected_share),
        *(len(switches(motion)), actions * (actions - 1)),
    )
    if motion.rejected_share == 1.0:
        raise UserError(f"{motion.source.path}: all of its motion is implausible (limits in controllers/generated.py)")
