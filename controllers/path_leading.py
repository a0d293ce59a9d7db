"""What the latent policy is shown of a desired path, from where the plan stands back to where it should be."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from motionlex.controllers.com_path import ComPath, VelocityCommand
from motionlex.controllers.conditions import WINDOW
from motionlex.controllers.placement import Placement
from motionlex.controllers.planner import DesiredPath, Planner
from motionlex.controllers.stack_state import StackConfig
from motionlex.data import quaternion

Pose = tuple[Float[np.ndarray, " 2"], float]
"""Centre of mass [m] and heading [rad]."""
_HOME = Placement(xy=np.zeros(2), yaw=0.0)


def leading_path(
    path: ComPath | VelocityCommand,
    *,
    now_s: float,
    start_s: float,
    hz: float,
    origin: Float[np.ndarray, " 2"],
    robot: Pose,
    plan: Pose,
    placement: Placement,
    config: StackConfig,
) -> DesiredPath:
    """Return the desired path of the ``WINDOW`` frames after ``start_s``, in the plan frame.

    It begins where the plan stands, as every path that the latent policy was trained on does, moves as the path
    that is followed, and leads back to it: an error e of the measured robot shrinks as e exp(-t / catch_up_s). Where
    headings are given and the robot is off by more than ``max_turn_error``, as far as that is not turned back yet the
    path's movement is turned by the rest, and shortened by its cosine: no motion walks sideways because it faces
    elsewhere.

    Args:
        path: What is followed; it began at ``origin``.
        now_s: Present time [s].
        start_s: Time at which the segment begins [s].
        hz: Frames per second.
        origin: World position of the path's origin [m].
        robot: As measured, in the world.
        plan: As planned for ``start_s``, in the plan frame.
        placement: Where the plan frame is in the world.
        config: How fast, and from how far, a path is led back to.
    """
    since = np.arange(1, WINDOW + 1) / hz
    xy, yaw = path.at(start_s + np.append(0.0, since))
    now, now_yaw = path.at(np.array([now_s]))
    back = 1.0 - np.exp(-since / config.catch_up_s)
    error = now[0] + origin - robot[0]
    error *= min(1.0, config.max_error / max(float(np.linalg.norm(error)), 1e-9))
    facing = quaternion.wrap_angle(float(now_yaw[0]) - robot[1])
    turn = np.clip(facing, -config.max_turn_error, config.max_turn_error)
    steps = np.diff(xy, axis=0)
    if path.has_yaw:
        off = back * turn - facing
        steps = _as_it_faces(steps, off - np.clip(off, -config.max_turn_error, config.max_turn_error))
    wanted = placement.points(plan[0][None])[0] + np.cumsum(steps, axis=0) + back[:, None] * error
    return DesiredPath(
        xy=placement.points_to_plan(wanted),
        yaw=plan[1] + yaw[1:] - yaw[0] + back * turn if path.has_yaw else None,
    )


def _as_it_faces(steps: Float[np.ndarray, "frame 2"], off: Float[np.ndarray, " frame"]) -> Float[np.ndarray, "frame 2"]:
    """Turn steps [m] by an angle [rad] and shorten them by its cosine: to nothing from 90 degrees on."""
    cosine, sine = np.cos(off), np.sin(off)
    turned = np.stack((cosine * steps[:, 0] - sine * steps[:, 1], sine * steps[:, 0] + cosine * steps[:, 1]), axis=-1)
    return np.maximum(cosine, 0.0)[:, None] * turned


def path_of_plan(
    path: ComPath | VelocityCommand, planner: Planner, now_s: float, *, origin: Float[np.ndarray, " 2"]
) -> DesiredPath:
    """Return what :func:`leading_path` shows of a path where there is no robot but the plan, which stands in the world.

    Args:
        path: What is followed; it began at ``origin``.
        planner: Plans the frames after ``now_s``.
        now_s: Present time [s].
        origin: Position of the path's origin [m].
    """
    pose = (planner.com, planner.anchor[1])
    return leading_path(
        path, now_s=now_s, start_s=now_s, hz=planner.hz, origin=origin, robot=pose, plan=pose, placement=_HOME,
        config=StackConfig(),
    )  # fmt: skip
