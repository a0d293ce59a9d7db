"""What an exported policy says about itself: everything that whoever drives a robot with it has to know.

The card travels inside the ONNX file (``metadata_props``, one JSON value per key), so that the file alone suffices.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from motionlex.controllers.commands import SEGMENT, STRIDE
from motionlex.controllers.low_level_policy import LowLevelPolicy
from motionlex.data.robots import Robot
from motionlex.envs.observations import VELOCITY_SCALE
from motionlex.envs.task_config import TaskConfig
from motionlex.motion_vae.registry import PlainValue

CARD_FORMAT = "motionlex-policy-1"
"""Version of the card's keys."""
JOINT_POSITION = "joint_position"
"""Part of the observation: measured hinge angles."""


@dataclass(frozen=True, kw_only=True)
class ObservationPart:
    """Some consecutive numbers of the input ``observation``."""

    name: str
    """What it is."""
    start: int
    """Index of its first number."""
    size: int
    """How many numbers."""
    unit: str
    """Unit of the quantity before scaling."""
    frame: str
    """Coordinate frame: base, heading, torso, world, or joints (one number per hinge, in the card's order)."""
    scale: float
    """The observation holds the quantity times this."""
    meaning: str
    """How to compute it."""


_Row = tuple[str, int, str, str, float, str]


def command_part(ahead: int, quantity: str) -> str:
    """Name the part with a quantity of the command frame ``ahead`` control steps from now."""
    return f"command_{ahead}_{quantity}"


def observation_parts(task: TaskConfig, robot: Robot) -> tuple[ObservationPart, ...]:
    """Describe the numbers of the input ``observation``, in order; codes are an input of their own.

    Args:
        task: The task that the policy was trained on.
        robot: The robot.
    """
    rows = _latent_rows(robot) if task.goal == "latent" else _tracking_rows(task, robot)
    parts, start = [], 0
    for name, size, unit, frame, scale, meaning in rows:
        part = ObservationPart(name=name, start=start, size=size, unit=unit, frame=frame, scale=scale, meaning=meaning)
        parts.append(part)
        start += size
    return tuple(parts)


def _own_rows(robot: Robot) -> tuple[_Row, ...]:
    hinges = len(robot.joints)
    return (
        (JOINT_POSITION, hinges, "rad", "joints", 1.0, "measured hinge angles"),
        ("joint_velocity", hinges, "rad/s", "joints", VELOCITY_SCALE, "measured hinge velocities"),
        ("projected_gravity", 3, "1", "base", 1.0, "unit vector of gravity, R^T (0, 0, -1), R the base's rotation"),
    )


def _last_action(robot: Robot) -> _Row:
    return ("last_action", len(robot.joints), "1", "joints", 1.0, "output action of the step before, 0 at the start")


def _latent_rows(robot: Robot) -> tuple[_Row, ...]:
    phase = f"control steps since the segment of the codes began / {STRIDE}"
    spin = "angular velocity of the torso, the body above the hinge back_bkz"
    return (
        ("phase", 1, "1", "none", 1.0, phase),
        *_own_rows(robot),
        ("torso_angular_velocity", 3, "rad/s", "torso", 1.0, spin),
        _last_action(robot),
    )


def _tracking_rows(task: TaskConfig, robot: Robot) -> tuple[_Row, ...]:
    hinges, first = len(robot.joints), task.ahead[0]
    rows = [
        *_own_rows(robot),
        ("base_angular_velocity", 3, "rad/s", "base", 1.0, "angular velocity of the base"),
        ("base_linear_velocity", 3, "m/s", "base", 1.0, "linear velocity of the base's origin"),
        ("base_height", 1, "m", "world", 1.0, "height of the base's origin above the floor"),
        _last_action(robot),
    ]
    turned = "first two columns of R^T R_command, column after column"
    for ahead in task.ahead:
        when = f"of the command {ahead} control steps from now"
        rows += [
            (command_part(ahead, "joint_error"), hinges, "rad", "joints", 1.0, f"hinge angles {when} minus measured"),
            (command_part(ahead, "position"), 3, "m", "heading", 1.0, f"base position {when} minus measured"),
            (command_part(ahead, "rotation"), 6, "1", "base", 1.0, f"rotation {when}: {turned}"),
            (command_part(ahead, "linear_velocity"), 3, "m/s", "heading", 1.0, f"base velocity {when}"),
        ]
    when = f"of the command {first} control steps from now"
    rows += [
        (command_part(first, "joint_velocity"), hinges, "rad/s", "joints", VELOCITY_SCALE, f"hinge velocities {when}"),
        (command_part(first, "angular_velocity"), 3, "rad/s", "command base", 1.0, f"angular velocity {when}"),
    ]
    return tuple(rows)


def motor_output(task: TaskConfig) -> str:
    """Name the second output: ``target`` angles [rad] for servos, or ``torque`` [N m]."""
    return "target" if task.control == "pd" else "torque"


def control_law(task: TaskConfig) -> str:
    """Say how the second output follows from the first and what the motors do with it."""
    servo = "every motor: torque = clip(stiffness (target - joint_position) - damping joint_velocity, +-torque_limit)"
    if task.control == "torque":
        return "torque [N m] = action * torque_limit, held for one control period"
    if task.goal == "latent":
        return f"target [rad] = default_pose + action_scale * action, held for one control period; {servo}"
    seen = f"{JOINT_POSITION} + {command_part(task.ahead[0], 'joint_error')}"
    return (
        f"target [rad] = {seen} + action_scale * action (the first two are read from the input observation: their sum "
        f"is the command's hinge angles), held for one control period; {servo}"
    )


def how_to(task: TaskConfig) -> list[str]:
    """List the steps of one control period for whoever runs the policy."""
    steps = ["Every 1/hz seconds: measure the robot and fill observation part by part (see observation), float32."]
    if task.goal == "latent":
        steps.append(
            "Fill codes (int64) with the codes of the running segment, from the autoencoder of autoencoder_sha256; "
            f"a new segment every {STRIDE} control steps resets the phase to 0."
        )
    else:
        steps.append("Command frames are one pose of base and hinges per control step, in the world of the robot.")
    steps += [
        f"Run the file; give {motor_output(task)} to the motors (see control_law). Never normalise or clip anything "
        "before: both happen inside.",
        "Keep action: it is last_action of the next period.",
        "heading frame: z up, x along the horizontal part of the base's x axis.",
    ]
    return steps


def policy_card(policy: LowLevelPolicy, robot: Robot, source: Mapping[str, PlainValue]) -> dict[str, PlainValue]:
    """Collect the card of a policy.

    Args:
        policy: The policy.
        robot: The robot it drives.
        source: Where it comes from.

    Returns:
        Values by key; each becomes one JSON text in the file.
    """
    task, shape = policy.task, policy.shape
    codes: PlainValue = None
    if shape.tokens:
        codes = {
            "tokens": shape.tokens,
            "vocabulary": shape.vocabulary,
            "segment_frames": SEGMENT,
            "replan_frames": STRIDE,
        }
    scale: PlainValue = None
    if task.control == "pd":
        scale = task.absolute_scale if task.goal == "latent" else task.residual_scale
    return {
        "format": CARD_FORMAT,
        "robot": robot.name,
        "goal": task.goal,
        "control": task.control,
        "hz": task.hz,
        "joint_names": list(robot.joint_names),
        "default_pose": robot.default_pose.tolist(),
        "stiffness": robot.stiffness.tolist(),
        "damping": robot.damping.tolist(),
        "torque_limit": robot.torque_limit.tolist(),
        "joint_lower": robot.lower.tolist(),
        "joint_upper": robot.upper.tolist(),
        "units": {
            "default_pose": "rad",
            "stiffness": "N m/rad",
            "damping": "N m s/rad",
            "torque_limit": "N m",
            "joint_lower": "rad",
            "joint_upper": "rad",
            "action_scale": "rad",
        },
        "action_limit": shape.action_limit,
        "action_scale": scale,
        "command_ahead": [] if task.goal == "latent" else list(task.ahead),
        "codes": codes,
        "observation": [asdict(part) for part in observation_parts(task, robot)],
        "control_law": control_law(task),
        "how_to": how_to(task),
        "task": asdict(task),
        "shape": asdict(shape),
        "source": dict(source),
    }
