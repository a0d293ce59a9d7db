"""What happens to a robot that has fallen: it gets up by itself if it has learned to, else it is put on its feet."""

from __future__ import annotations

from typing import Literal

Event = Literal["fell", "gets up", "got up", "stood up"]
"""``fell``; ``gets up`` and ``got up``: by its own motors; ``stood up``: put on its feet."""


class Recovery:
    """Watches control steps, and says when something is to be done."""

    def __init__(
        self, hz: float, *, lying_s: float | None, rises: bool, rising_s: float = 8.0, steady_s: float = 1.0
    ) -> None:
        """Begin upright.

        Args:
            hz: Control rate [Hz].
            lying_s: Time on the ground after which something is done [s]; None does nothing.
            rises: Whether the robot has learned to get up.
            rising_s: Time that it is given to get up [s]; then it is put on its feet.
            steady_s: Time upright after which it has got up [s].
        """
        self._lying = None if lying_s is None else lying_s * hz
        self._rises, self._longest, self._steady = rises, rising_s * hz, steady_s * hz
        self.clear()

    def clear(self) -> None:
        """The robot stands."""
        self.rising = False
        """Whether the robot is getting up by itself."""
        self._down, self._up, self._steps = 0, 0, 0

    def watch(self, *, down: bool, planned: bool) -> Event | None:
        """Take one control step.

        Args:
            down: Whether the robot is on the ground.
            planned: Whether it is planned to be.

        Returns:
            What has just happened. After ``gets up`` the robot is to be told to get up, after ``got up`` what it was
            told before, and at ``stood up`` it is to be put on its feet.
        """
        if self.rising:
            return self._watch_rising(down)
        if not down:
            self._down = 0
            return None
        if planned:
            return None
        self._down += 1
        if self._lying is not None and self._down > self._lying:
            self.clear()
            self.rising = self._rises
            return "gets up" if self._rises else "stood up"
        return "fell" if self._down == 1 else None

    def _watch_rising(self, down: bool) -> Event | None:
        self._steps, self._up = self._steps + 1, 0 if down else self._up + 1
        if self._up > self._steady:
            self.clear()
            return "got up"
        if self._steps > self._longest:
            self.clear()
            return "stood up"
        return None
