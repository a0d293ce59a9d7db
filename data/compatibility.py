"""Whether a motion is one of a robot at all."""

from __future__ import annotations

from motionlex.data.clip import MotionClip
from motionlex.data.errors import UserError
from motionlex.data.robots import Robot


def check_fits(clip: MotionClip, robot: Robot) -> None:
    """Refuse a motion of another robot, or with another number of joints.

    Raises:
        UserError: Naming the clip, what it has and what the robot wants.
    """
    if clip.robot != robot.name:
        raise UserError(f"clip {clip.name!r} is a motion of robot {clip.robot}, wanted {robot.name}; retarget it first")
    joints, wanted = clip.qpos.shape[1] - 7, len(robot.joints)
    if joints != wanted:
        raise UserError(
            f"clip {clip.name!r} has {joints} joints, {robot.name} has {wanted}: "
            "it is a motion of another robot; retarget it first"
        )
