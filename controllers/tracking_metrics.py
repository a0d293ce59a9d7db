"""How far a robot is from its reference and what that costs: pure functions on (env, ...) numpy arrays.

Every measure of an episode is a pair (sum, weight), so that means over episodes are ratios of sums: errors weigh every
frame alike, survival and drift every episode, sliding every foot on the floor.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from motionlex.data import quaternion
from motionlex.envs.alignment import move_under
from motionlex.envs.rewards import BodyState

GRAVITY = 9.81
"""Weight per mass [m/s^2]."""
SATURATED = 0.99
"""Share of a motor's limit from which it counts as saturated."""
KEY_POINT_LIMIT = 0.5
"""Mean key-point error [m] at which the rule of other projects calls an episode failed."""
DOWN_HEIGHT = 0.5
"""A root below this height [m] is down."""
DOWN_COSINE = 0.5
"""So is one whose own vertical is tilted by more than 60 degrees (cosine of the tilt)."""
TRAVEL_SPEED = 0.2
"""Mean horizontal speed [m/s] of a reference that travels, so that it has a cost of transport."""

Pairs = dict[str, tuple[Float[np.ndarray, " env"], Float[np.ndarray, " env"]]]
"""Sum and weight by measure."""


@dataclass(frozen=True, kw_only=True)
class StepRecord:
    """One control step of many robots beside the reference of the instant that the step reached."""

    state: BodyState
    """Measured state after the step."""
    reference: BodyState
    """The library's state at that instant, in the world."""
    torque: Float[np.ndarray, "env sample joint"]
    """Motor torques at the physics steps [N m]."""
    speed: Float[np.ndarray, "env sample joint"]
    """Hinge velocities at the same instants [rad/s]."""
    torque_limit: Float[np.ndarray, "#env joint"]
    """Motor limits [N m], of all robots or of each."""
    slide: Float[np.ndarray, "env foot"]
    """Horizontal speed of each foot at the floor [m/s]."""
    contact: Bool[np.ndarray, "env foot"]
    """Whether each foot touches the floor."""


def key_point_errors(
    state: BodyState, reference: BodyState
) -> tuple[Float[np.ndarray, " env"], Float[np.ndarray, " env"], Float[np.ndarray, " env"]]:
    """Return mean key-point distance in the world [mm], with roots aligned [mm], mean joint error [rad].

    Aligned means that the reference is moved to the robot's x, y and heading and both are then compared relative to
    their root's height as well.
    """
    world = np.sqrt(((state.sites - reference.sites) ** 2).sum(-1)).mean(-1)
    moved = move_under(reference, state.qpos)
    lift = (state.qpos[:, 2] - moved.qpos[:, 2])[:, None, None] * np.array([0.0, 0.0, 1.0])
    local = np.sqrt(((state.sites - moved.sites - lift) ** 2).sum(-1)).mean(-1)
    joint = np.abs(state.qpos[:, 7:] - reference.qpos[:, 7:]).mean(-1)
    return 1e3 * world, 1e3 * local, joint


def root_drift(state: BodyState, reference: BodyState) -> Float[np.ndarray, " env"]:
    """Return the horizontal distance of the roots [m]."""
    return np.hypot(*(state.qpos[:, axis] - reference.qpos[:, axis] for axis in range(2)))


def heading_error(state: BodyState, reference: BodyState) -> Float[np.ndarray, " env"]:
    """Return the angle between the headings in the world, in [0, pi] [rad]; defined for robots that lie as well."""
    turn = quaternion.heading(state.qpos[:, 3:7]) - quaternion.heading(reference.qpos[:, 3:7])
    return np.abs(np.arctan2(np.sin(turn), np.cos(turn)))


def absolute_power(
    torque: Float[np.ndarray, "env sample joint"], speed: Float[np.ndarray, "env sample joint"]
) -> Float[np.ndarray, " env"]:
    r"""Return the mean absolute mechanical power :math:`\sum_j |\tau_j \dot q_j|` [W], averaged over the samples.

    Braking counts as spending: the motors of this robot give nothing back.
    """
    return np.abs(torque * speed).sum(axis=2).mean(axis=1)


def saturated_share(
    torque: Float[np.ndarray, "env sample joint"], limit: Float[np.ndarray, "#env joint"]
) -> Float[np.ndarray, " env"]:
    """Return the share of the joint-steps at 99 % of the motor limit or more."""
    return (np.abs(torque) >= SATURATED * limit[:, None]).mean(axis=(1, 2))


def is_down(qpos: Float[np.ndarray, "env coordinate"]) -> Bool[np.ndarray, " env"]:
    """Tell which roots are below 0.5 m or tilted by more than 60 degrees; NaN counts as down."""
    upright = quaternion.to_matrix(qpos[:, 3:7])[:, 2, 2]
    return ~((qpos[:, 2] >= DOWN_HEIGHT) & (upright >= DOWN_COSINE))


def step_measures(step: StepRecord) -> Pairs:
    """Return what one control step adds to the measures of its episode."""
    world, local, joint = key_point_errors(step.state, step.reference)
    one = np.ones(len(world))
    speed_error = np.abs(step.state.qvel[:, 6:] - step.reference.qvel[:, 6:]).mean(axis=1)
    return {
        "keypoint_error_local_mm": (local, one),
        "keypoint_error_global_mm": (world, one),
        "joint_error_rad": (joint, one),
        "joint_velocity_error_rad_s": (speed_error, one),
        "torque_saturation": (saturated_share(step.torque, step.torque_limit), one),
        "energy_j_per_s": (absolute_power(step.torque, step.speed), one),
        "foot_sliding_mm_s": (
            1e3 * np.where(step.contact, step.slide, 0.0).sum(axis=1),
            step.contact.sum(axis=1) * 1.0,
        ),
    }


def transport_cost(
    power_sum: Float[np.ndarray, " env"],
    distance: Float[np.ndarray, " env"],
    reference_distance: Float[np.ndarray, " env"],
    frames: Float[np.ndarray, " env"],
    *,
    hz: float,
    mass: float,
) -> tuple[Float[np.ndarray, " env"], Float[np.ndarray, " env"]]:
    r"""Return the pair behind the cost of transport :math:`E / (m g d)`, dimensionless.

    Args:
        power_sum: Absolute power, summed over control steps [W].
        distance: Way of the root over the floor [m].
        reference_distance: That of the reference [m]; where it is slower than 0.2 m/s both numbers are 0.
        frames: Control steps.
        hz: Control rate [1/s].
        mass: Of the robot [kg].
    """
    travels = reference_distance * hz > TRAVEL_SPEED * np.maximum(frames, 1.0)
    return np.where(travels, power_sum / hz, 0.0), np.where(travels, mass * GRAVITY * distance, 0.0)
