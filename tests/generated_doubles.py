"""What tests of codes and of generated motion share."""

import pytest

from motionlex.controllers.command_tours import ScriptConfig
from motionlex.controllers.generated import (
    PlausibilityLimits,
    generate,
)
from motionlex.data.robots import get_robot

ROBOT = get_robot("h1")


LOOSE = PlausibilityLimits(root_speed=1e6, joint_speed=1e6, penetration=1e6)
"""An untrained policy makes nothing plausible; the filter has tests of its own."""


SHORT = ScriptConfig(minutes=0.3, shortest_s=0.3, longest_s=1.1, commands=4)


def planned(source, toy_encode, folder):
    """Short plans of all switches, cached in a folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOTIONLEX_CACHE", str(folder))
        return generate(source, SHORT, seed=3, encode=toy_encode, limits=LOOSE)
