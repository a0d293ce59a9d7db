"""The reference pre-flight: can this motion be trained on? Facts about a clip, and a verdict in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Float

from motionlex.data.clip import MotionClip
from motionlex.data.compatibility import check_fits
from motionlex.data.ground import clearance
from motionlex.data.inspection import check_valid_stretches, stretches
from motionlex.data.procedural.dynamics import InverseDynamics
from motionlex.data.robots import Robot
from motionlex.envs.open_loop import roll_out_open_loop
from motionlex.envs.randomisation import Randomisation
from motionlex.envs.reference import MINIMUM_RUN, MotionLibrary
from motionlex.envs.task import TrackingTask
from motionlex.envs.task_config import TaskConfig

Verdict = Literal["ok", "warning", "unusable"]
VERDICTS: tuple[Verdict, ...] = ("ok", "warning", "unusable")
SEGMENT = 32
"""Frames that an autoencoder takes at once."""
FIRST_S = 0.1
"""An episode that ends within this time [s] was lost before any policy could act."""
LONGEST_S = 5.0
"""Longest open-loop rollout [s]."""
_START_EVERY_S = 1.0
_LAST_START = 10


@dataclass(frozen=True, kw_only=True)
class PreflightLimits:
    """From where on something is worth a warning, or makes a clip unusable."""

    range_excess_rad: float = 0.05
    """Hinges beyond their range by more [rad]: warning."""
    velocity_ratio: float = 1.0
    """Hinges faster than this share of what their motors can turn: warning."""
    torque_ratio: float = 1.0
    """Motor torques beyond this share of the limits: warning."""
    penetration_m: float = 0.02
    """Body below the floor by more [m] in 1 % of the frames: warning."""
    sunken_m: float = 0.3
    """Body below the floor by more [m] in half of the frames: unusable."""
    floating_m: float = 0.03
    """Body above the floor by more [m] in half of the frames: warning."""
    hovering_m: float = 0.3
    """Body above the floor by more [m] in half of the frames: unusable."""
    carried_share: float = 0.05
    """Share of frames in which the feet are in the air but the body does not fall: warning."""
    slide_m_s: float = 0.5
    """Feet that stand and slide faster [m/s]: warning."""
    balance_share: float = 0.5
    """Share of standing frames whose zero-moment point leaves the soles: warning."""
    masked_share: float = 0.05
    """Share of masked frames: warning."""
    early_share: float = 0.5
    """Share of starts that are lost within 0.1 s: unusable; any at all: warning."""


@dataclass(frozen=True, kw_only=True)
class ClipFacts:
    """What the pre-flight measures in one clip; None where there was nothing to measure."""

    frames: int
    """Frames."""
    usable_share: float
    """Share of the frames in unmasked stretches that are long enough to train on."""
    masked_share: float
    """Share of the frames that are masked."""
    range_excess_rad: float
    """How far a hinge leaves its range [rad]; negative: the smallest distance kept."""
    range_excess_joint: str
    """That hinge."""
    velocity_ratio: float | None
    """Fastest hinge as a share of what its motor can turn, 99.9th percentile over the frames."""
    velocity_joint: str | None
    """That hinge."""
    clearance_median_m: float | None
    """Height of the whole body's lowest point above the floor [m], median."""
    penetration_m: float | None
    """Its depth below the floor [m], 99th percentile."""
    first_start_lost: bool | None
    """Whether a robot that starts exactly on the first usable frame is lost within 0.1 s, its servos following."""
    lost_at_once_share: float | None
    """Share of such starts, one per second."""
    open_loop_median_s: float | None
    """Survival of those robots [s], median; 5 s at most."""
    open_loop_shortest_s: float | None
    """Shortest survival that ended in a termination [s]; None where all reached the end."""
    starts_s: tuple[float, ...]
    """Times of the starts in the clip [s]."""
    survival_s: tuple[float, ...]
    """Survival from each [s]."""
    feasibility: Mapping[str, float | str] | None
    """Feet, balance and motor torques over the unmasked stretches, see ``data/procedural/feasibility.py``."""


@dataclass(frozen=True, kw_only=True)
class Preflight:
    """The outcome for one clip."""

    verdict: Verdict
    """ok, warning (trainable, with flaws) or unusable."""
    reasons: tuple[str, ...]
    """Why it is not ok, in words; what makes it unusable first."""
    facts: ClipFacts
    """What was measured."""


def check_clip(
    clip: MotionClip,
    dynamics: InverseDynamics,
    config: TaskConfig | None = None,
    *,
    limits: PreflightLimits | None = None,
    threads: int = 1,
) -> Preflight:
    """Check one clip; takes about a second per minute of motion.

    Args:
        clip: The motion as training would get it (smoothed and set on the floor, where training does so).
        dynamics: Inverse dynamics of the robot.
        config: The task at the clip's rate; its servos follow the reference whatever its goal and control. None: the
            default, with the physics step nearest to its own that the clip's rate allows.
        limits: From where on something is reported.
        threads: Physics threads.

    Raises:
        UserError: If the clip is of another robot or has another number of joints.
    """
    check_fits(clip, dynamics.robot)
    facts = measure_clip(clip, dynamics, config or _default_task(clip.hz), threads=threads)
    verdict, reasons = judge(facts, limits or PreflightLimits())
    return Preflight(verdict=verdict, reasons=reasons, facts=facts)


def measure_clip(clip: MotionClip, dynamics: InverseDynamics, config: TaskConfig, *, threads: int = 1) -> ClipFacts:
    """Measure one clip; arguments as for :func:`check_clip`."""
    robot, valid = dynamics.robot, np.asarray(clip.valid)
    runs = [(a, b) for a, b in stretches(valid) if b - a >= MINIMUM_RUN]
    hinges = clip.qpos[valid if valid.any() else slice(None), 7:]
    excess = np.maximum(robot.lower - hinges, hinges - robot.upper).max(axis=0)
    speed = [np.abs(clip.slice(a, b).qvel()[:, 6:]) for a, b in stretches(valid) if b - a > 1]
    ratio = np.quantile(np.concatenate(speed), 0.999, axis=0) / robot.velocity_limit if speed else None
    height = clearance(clip.qpos[valid], robot) if valid.any() else None
    starts, survival, lost = _open_loop(clip, robot, config, threads) if runs else (np.zeros(0), np.zeros(0), None)
    at_once = None if lost is None else lost & (survival <= FIRST_S + 1e-9)
    return ClipFacts(
        frames=clip.frames,
        usable_share=sum(b - a for a, b in runs) / clip.frames,
        masked_share=float((~valid).mean()),
        range_excess_rad=float(excess.max()),
        range_excess_joint=robot.joint_names[int(excess.argmax())],
        velocity_ratio=None if ratio is None else float(ratio.max()),
        velocity_joint=None if ratio is None else robot.joint_names[int(ratio.argmax())],
        clearance_median_m=None if height is None else float(np.median(height)),
        penetration_m=None if height is None else float(-np.quantile(height, 0.01)),
        first_start_lost=None if at_once is None else bool(at_once[0]),
        lost_at_once_share=None if at_once is None else float(at_once.mean()),
        open_loop_median_s=float(np.median(survival)) if len(survival) else None,
        open_loop_shortest_s=float(survival[lost].min()) if lost is not None and lost.any() else None,
        starts_s=tuple(starts.tolist()),
        survival_s=tuple(survival.tolist()),
        feasibility=check_valid_stretches(clip, dynamics),
    )


def _default_task(hz: float) -> TaskConfig:
    """Return the default task at any rate: its physics step becomes a whole part of the control period."""
    default = TaskConfig()
    return replace(default, hz=hz, timestep=1.0 / (hz * max(1.0, np.ceil(1.0 / (hz * default.timestep) - 1e-9))))


def judge(facts: ClipFacts, limits: PreflightLimits) -> tuple[Verdict, tuple[str, ...]]:
    """Return the verdict and its reasons in words."""
    fatal, flaws = _fatal(facts, limits), _flaws(facts, limits)
    verdict: Verdict = "unusable" if fatal else "warning" if flaws else "ok"
    return verdict, (*fatal, *flaws)


def _fatal(facts: ClipFacts, limits: PreflightLimits) -> list[str]:
    found = []
    if facts.frames < SEGMENT:
        found.append(f"has {facts.frames} frames, a segment needs {SEGMENT}")
    elif facts.usable_share == 0.0:
        found.append(f"no unmasked stretch of {MINIMUM_RUN} frames, the shortest that is trained on")
    if (height := facts.clearance_median_m) is not None and height < -limits.sunken_m:
        found.append(f"lies {-height:.2f} m below the floor: wrong height or axes")
    if height is not None and height > limits.hovering_m:
        found.append(f"hovers {height:.2f} m above the floor: wrong height or axes")
    if (early := facts.lost_at_once_share) is not None and early > limits.early_share:
        found.append(_lost_at_once(facts))
    return found


def _lost_at_once(facts: ClipFacts) -> str:
    also = ", the first frame among them" if facts.first_start_lost else ""
    return f"{facts.lost_at_once_share:.1%} of the starts on the reference itself are lost within {FIRST_S:g} s{also}"


def _flaws(facts: ClipFacts, limits: PreflightLimits) -> list[str]:
    found = []
    if 0.0 < facts.usable_share < 1.0 - limits.masked_share or facts.masked_share > limits.masked_share:
        found.append(f"{facts.masked_share:.1%} of the frames are masked, {facts.usable_share:.1%} can be trained on")
    if (excess := facts.range_excess_rad) > limits.range_excess_rad:
        found.append(f"{facts.range_excess_joint} leaves its range by {excess:.2f} rad")
    if facts.velocity_ratio is not None and facts.velocity_ratio > limits.velocity_ratio:
        found.append(f"{facts.velocity_joint} turns at {facts.velocity_ratio:.2f} times what its motor can")
    if (depth := facts.penetration_m) is not None and depth > limits.penetration_m:
        found.append(f"the body sinks {1e3 * depth:.0f} mm into the floor")
    if (height := facts.clearance_median_m) is not None and limits.floating_m < height <= limits.hovering_m:
        found.append(f"floats {1e3 * height:.0f} mm above the floor")
    early = facts.lost_at_once_share
    if early is not None and 0.0 < early <= limits.early_share:
        found.append(_lost_at_once(facts))
    return found + ([] if facts.feasibility is None else _dynamic_flaws(facts.feasibility, limits))


def _dynamic_flaws(figures: Mapping[str, float | str], limits: PreflightLimits) -> list[str]:
    def number(name: str) -> float:
        return float(figures[name])

    found = []
    if (torque := number("torque_ratio")) > limits.torque_ratio:
        found.append(f"{figures['torque_joint']} needs {torque:.1f} times the torque of its motor")
    if (slide := number("slide_m_s")) > limits.slide_m_s:
        found.append(f"a standing foot slides at up to {slide:.1f} m/s")
    if (share := number("flight_share")) > limits.carried_share and number("flight_force") > 0.5:
        found.append(f"the feet are in the air in {share:.0%} of the frames while the body does not fall")
    if (outside := number("zmp_outside_share")) > limits.balance_share:
        found.append(f"the zero-moment point is outside the soles in {outside:.0%} of the standing frames")
    return found


def _open_loop(
    clip: MotionClip, robot: Robot, config: TaskConfig, threads: int
) -> tuple[Float[np.ndarray, " start"], Float[np.ndarray, " start"], np.ndarray]:
    """Return times of the starts [s], survival from each [s], and whether it ended in a termination."""
    library = MotionLibrary([clip], robot, clip.hz)
    plain = replace(config, goal="reference", control="pd", reward="deepmimic", randomisation=Randomisation())
    task = TrackingTask(robot, library, plain)
    every = max(1, round(_START_EVERY_S * clip.hz))
    frames = np.concatenate(
        [np.arange(a, b - _LAST_START, every) for a, b in zip(library.run_starts, library.run_stops, strict=True)]
    )
    found = roll_out_open_loop(task, frames, seconds=LONGEST_S, threads=threads)
    return library.clip_frame[frames] / clip.hz, found.steps / clip.hz, found.terminated
