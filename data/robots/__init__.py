"""Robots: one file each, exposing ``ROBOT``."""

from __future__ import annotations

from motionlex.data.registry import find_by_name, sibling_members
from motionlex.data.robots.robot import Joint, Robot

__all__ = ["Joint", "Robot", "available_robots", "get_robot"]


def available_robots() -> tuple[str, ...]:
    """Return the names of all robots."""
    return tuple(robot.name for robot in _robots())


def get_robot(name: str) -> Robot:
    """Return the robot of that name.

    Raises:
        UserError: If no robot has that name; the message lists those that exist.
    """
    return find_by_name(_robots(), name, kind="robot", where="data/robots/")


def _robots() -> tuple[Robot, ...]:
    return tuple(m for m in sibling_members("motionlex.data.robots", "ROBOT") if isinstance(m, Robot))
