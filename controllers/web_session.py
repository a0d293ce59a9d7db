"""The stack in the browser: what the page shows of it, and what is asked for there.

Only the thread that steps the stack may touch it. What people ask for on the page waits in :attr:`WebSession.requests`
until that thread takes it up between two control steps; nothing here obeys anything.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from motionlex.controllers.com_path import VelocityCommand
from motionlex.controllers.conditions import WINDOW
from motionlex.controllers.stack import Stack
from motionlex.controllers.stack_state import State
from motionlex.controllers.web_requests import Requests
from motionlex.envs.steering import Velocity
from motionlex.envs.web_viewer import Sketch, WebViewer


class WebSession:
    """A page for a stack.

    Example:
        >>> web = WebSession(stack)                         # doctest: +SKIP
        >>> while True:                                     # doctest: +SKIP
        ...     for request in web.requests.take(): ...     # obey it
        ...     web.draw(stack.step())
    """

    def __init__(self, stack: Stack, *, host: str = "127.0.0.1", port: int = 8080) -> None:
        """Open the page.

        Args:
            stack: The robot.
            host: Address to serve at; any but this machine's own needs the token that is then in :attr:`url`.
            port: Port to serve at; the next free one is taken if it is in use.

        Raises:
            UserError: If the address is not ours or no port is free.
        """
        self._stack = stack
        self.requests = Requests()
        """What was asked for and is not done yet; any thread may add to it."""
        suggestions = [action.replace("_", " ") for action in stack.bundle.captions]
        self.viewer = WebViewer(
            stack.tracker.simulator, host=host, port=port, listener=self.requests, suggestions=suggestions
        )
        """Scene and panel."""
        self.url = self.viewer.url
        """Address to open in a browser."""
        self.tell("Say what the robot should do.")
        self.draw(None)

    def draw(self, state: State | None) -> None:
        """Send the robot and its plan, at most 30 times a second; returns at once.

        Args:
            state: What the last control step led to; None before the first of a robot that was put somewhere.
        """
        stack = self._stack
        if not self.viewer.due():
            self.viewer.draw(Sketch(time=stack.time, planned_qpos=stack.planned_qpos), whole=False)
            return
        plan = stack.plan
        sketch = Sketch(
            time=stack.time,
            planned_qpos=stack.planned_qpos,
            codes=None if state is None or len(state.codes) == 0 else state.codes,
            planned=stack.kinematics(plan).com[:, :2] if len(plan) > 1 else None,
            wanted=self._wanted(),
            velocity=self._velocity,
            goal=stack.goal,
        )
        self.viewer.draw(sketch)

    @property
    def _velocity(self) -> Velocity | None:
        path = self._stack.path
        return path.numbers if isinstance(path, VelocityCommand) else None

    def show_wishes(self) -> None:
        """Show what is followed; :meth:`draw` does so too, but not while time stands still."""
        self.viewer.show_wishes(self._velocity, self._stack.goal)

    def tell(self, message: str) -> None:
        """Show a line of plain text on the page, above the older ones."""
        self.viewer.panel.tell(message)

    def show_controls(self, *, paused: bool, speed: float) -> None:
        """Show how time runs, whoever changed it.

        Args:
            paused: Whether it stands still.
            speed: Simulated seconds per real second.
        """
        self.viewer.panel.show_controls(paused=paused, speed=speed)

    def close(self) -> None:
        """Stop serving the page."""
        self.viewer.close()

    def _wanted(self) -> Float[np.ndarray, "point 2"] | None:
        """Return the desired path from now on, twice as far as the policy looks ahead [m]."""
        path = self._stack.path
        if path is None:
            return None
        xy, _ = path.at(self._stack.time + np.arange(2 * WINDOW + 1) / self._stack.hz)
        return xy + self._stack.start_com


__all__ = ["WebSession"]
