"""One prompt obeyed by one simulated robot, and the robots that obey them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from motionlex.controllers.actuation import MotorWatch
from motionlex.controllers.bundle import Bundle
from motionlex.controllers.episode import is_down
from motionlex.controllers.evaluation_scores import clip_of
from motionlex.controllers.evaluation_takes import SETTLE_S, Take
from motionlex.controllers.stack import Stack
from motionlex.controllers.stack_state import StackConfig
from motionlex.controllers.text import TextFunction


@dataclass(frozen=True, kw_only=True)
class Stacks:
    """Makes robots that stand at the start."""

    bundle: Bundle
    """What they are driven by."""
    encode: TextFunction
    """How they understand text."""
    seed: int = 0
    """Added to the seed of every robot."""

    def make(self, seed: int, *, encode: TextFunction | None = None, config: StackConfig | None = None) -> Stack:
        """Make one robot.

        Args:
            seed: Its number, of which the draws of its codes depend.
            encode: Another way to understand text.
            config: Another way to hold plan and robot together.
        """
        return Stack(self.bundle, seed=self.seed + seed, encode=encode or self.encode, config=config)


@dataclass(frozen=True, kw_only=True)
class Performance:
    """One prompt, simulated."""

    take: Take
    """What the robot did, beside the plan."""
    fell: bool
    """Whether it fell on the way, though it may stand again."""
    power_w: float
    """Mean mechanical power [W]."""
    saturation: float
    """Share of the motor-steps at the limit."""


def perform(stack: Stack, action: str, text: str, seconds: float) -> Performance:
    """Let a stack at its start obey a text.

    Args:
        stack: The robot.
        action: Action that the text asks for.
        text: What is said.
        seconds: For how long [s].
    """
    watch = MotorWatch(stack.tracker.simulator)
    stack.command(text)
    states = [stack.step() for _ in range(max(1, round(seconds * stack.hz)))]
    qpos = np.array([state.qpos for state in states])
    take = Take(
        action=action,
        name=text,
        clip=clip_of(text, qpos, stack.hz),
        reference=np.array([state.planned_qpos for state in states]),
        down=stack.fell or is_down(qpos[-1]),
        settle_s=SETTLE_S,
    )
    return Performance(take=take, fell=stack.fell, power_w=watch.power_w, saturation=watch.saturation)
