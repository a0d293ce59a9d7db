"""Tells gymnasium about the environment; imports nothing heavy."""

from __future__ import annotations

import gymnasium

ENVIRONMENT_ID = "motionlex/H1Track-v0"


def register() -> None:
    """Make ``gymnasium.make("motionlex/H1Track-v0")`` known; repeated calls do nothing."""
    if ENVIRONMENT_ID not in gymnasium.registry:
        gymnasium.register(id=ENVIRONMENT_ID, entry_point="motionlex.envs.tracking:H1Track")
