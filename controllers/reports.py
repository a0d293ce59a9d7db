"""What happens under each command of a session."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from motionlex.controllers.episode import LONGEST_S, CommandReport, heading_change_deg, speeds
from motionlex.controllers.rows import Rows
from motionlex.controllers.stack_state import Command


class Reports:
    """One report per command, each over the last hour at least."""

    def __init__(self) -> None:
        """Begin without any."""
        self._done: list[CommandReport] = []
        self._given: Command | None = None

    def begin(self, given: Command, *, time: float, qpos: Float[np.ndarray, " coordinate"], hz: float) -> None:
        """End the report of the command before, and begin another.

        Args:
            given: The command.
            time: When it was given, since the session began [s].
            qpos: Where the robot was.
            hz: Control rate [Hz].
        """
        self.finish(time)
        self._given, self._since, self._hz = given, time, hz
        self._trajectory = Rows(len(qpos), longest=round(LONGEST_S * hz))
        self._trajectory.append(qpos)

    def add(self, qpos: Float[np.ndarray, " coordinate"]) -> None:
        """Take what a control step led to; nothing happens where there is no command."""
        if self._given is not None:
            self._trajectory.append(qpos)

    def finish(self, time: float) -> tuple[CommandReport, ...]:
        """End the present report, if there is one.

        Args:
            time: Since the session began [s].

        Returns:
            All reports.
        """
        if self._given is not None:
            qpos, given = self._trajectory.array(), self._given
            speed, forward = speeds(qpos, self._hz)
            report = CommandReport(
                text=given.text,
                action=given.action,
                similarity=given.similarity,
                start_s=self._since,
                seconds=time - self._since,
                mean_speed_mps=speed,
                forward_speed_mps=forward,
                heading_change_deg=heading_change_deg(qpos),
                understood=given.understood,
            )
            self._done.append(report)
            self._given = None
        return tuple(self._done)
