"""The robot in the browser (viser): scene, panel and the rate at which both are sent."""

from __future__ import annotations

import logging
import secrets
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from motionlex.data.errors import check_number
from motionlex.envs.simulator import Simulator
from motionlex.envs.steering import Velocity
from motionlex.envs.web_guard import Guard, is_loopback
from motionlex.envs.web_history import History
from motionlex.envs.web_panel import Listener, Panel
from motionlex.envs.web_scene import Scene
from motionlex.envs.web_server import open_server

logger = logging.getLogger(__name__)
PICTURE_S = 1.0 / 30.0
"""Shortest time between two pictures [s]."""
PANEL_S = 0.2
"""Shortest time between two updates of paths, codes and plots [s]."""


@dataclass(frozen=True, kw_only=True)
class Sketch:
    """What is planned and wanted, beside the robot itself."""

    time: float
    """Simulated time [s]; where it runs backwards, plots begin anew."""
    planned_qpos: Float[np.ndarray, " coordinate"] | None = None
    """Pose that is planned for now, in the world; None hides the ghost."""
    codes: Int[np.ndarray, " token"] | None = None
    """Codes of the running segment."""
    planned: Float[np.ndarray, "planned 2"] | None = None
    """Planned path of the centre of mass from now on [m]."""
    wanted: Float[np.ndarray, "wanted 2"] | None = None
    """Desired path of the centre of mass from now on [m]."""
    velocity: Velocity | None = None
    """The velocity that makes it, if one does."""
    goal: Float[np.ndarray, " 2"] | None = None
    """Where the centre of mass is to go [m]."""


class WebViewer:
    """A page that shows a simulator's present state, and tells a listener what people ask for.

    The page can be opened by several browsers, and again after a reload: the server keeps all that is on it.
    """

    def __init__(
        self,
        simulator: Simulator,
        *,
        host: str = "127.0.0.1",
        port: int = 8080,
        listener: Listener | None = None,
        suggestions: Sequence[str] = (),
    ) -> None:
        """Start the server and log its address.

        Args:
            simulator: What to show.
            host: Address to serve at. Any but this machine's own makes a random token that the browser must give.
            port: Port to serve at; the next free one is taken if it is in use.
            listener: Who is told what is asked for on the page; None leaves the controls out.
            suggestions: Commands that a button gives.

        Raises:
            UserError: If the address is not ours or no port is free.
        """
        check_number("port", port, at_least=0, at_most=65535)
        token = None if is_loopback(host) else secrets.token_urlsafe(24)
        self._simulator = simulator
        self._server = open_server(host, port, Guard(token))
        self.port = self._server.get_port()
        """Port that is served at."""
        self.url = _address(host, self.port, token)
        """Address to open in a browser, with the token if one is needed."""
        self._scene = Scene(self._server, simulator.model)
        self.panel = Panel(self._server, listener, suggestions, self._scene.flag)
        """The widgets."""
        self._history = History(simulator.robot.torque_limit)
        self._pictured = self._paneled = -np.inf
        self._mark, self._ratio = (time.perf_counter(), 0.0), 0.0
        if token is not None:
            logger.warning(
                "web viewer: address %s lets other machines in. Who has the link below controls the robot, and "
                "nothing is encrypted; safer: keep 127.0.0.1 and use ssh -L %d:127.0.0.1:%d THIS_MACHINE there",
                host,
                self.port,
                self.port,
            )
        logger.info("web viewer: %s", self.url)

    def show(self) -> None:
        """Show the present state without any plan."""
        self.draw(Sketch(time=self._simulator.time))

    def due(self) -> bool:
        """Tell whether the next :meth:`draw` will send paths, codes and plots, so that they are worth computing."""
        now = time.perf_counter()
        return now - self._pictured >= PICTURE_S and now - self._paneled >= PANEL_S

    def draw(self, sketch: Sketch, *, whole: bool = True) -> None:
        """Send the present state if a picture is due; returns at once.

        Args:
            sketch: What is planned and wanted.
            whole: Whether the sketch has everything. Of one that was made when :meth:`due` said no, only what every
                picture shows is sent, also if that has become due since: what is missing in it may be there.
        """
        simulator, now = self._simulator, time.perf_counter()
        self._history.add(sketch.time, simulator.qpos, simulator.qvel, simulator.torque)
        if now - self._pictured < PICTURE_S:
            return
        slowly, self._pictured, qpos = whole and self.due(), now, simulator.qpos
        with self._server.atomic():
            self._scene.look_at(qpos[:3])
            self._scene.robot.pose(qpos)
            self._scene.flag.stay_ahead(qpos)
            self._scene.ghost.show(sketch.planned_qpos is not None)
            if sketch.planned_qpos is not None:
                self._scene.ghost.pose(sketch.planned_qpos)
            if slowly:
                self._paneled = now
                self._draw_slowly(sketch, now)

    def _draw_slowly(self, sketch: Sketch, now: float) -> None:
        """Send what need not be new in every picture."""
        table, (since, before) = self._history.table, self._mark
        if now - since >= 1.0 or sketch.time < before:
            self._ratio, self._mark = max(0.0, sketch.time - before) / (now - since), (now, sketch.time)
        self._scene.planned.draw(sketch.planned)
        self._scene.wanted.draw(sketch.wanted)
        self.show_wishes(sketch.velocity, sketch.goal)
        self._scene.walked.draw(table[::5, 4:])
        self.panel.show_history(table, self._ratio)
        if sketch.codes is not None:
            self.panel.show_codes(sketch.codes)

    def show_wishes(self, velocity: Velocity | None, goal: Float[np.ndarray, " 2"] | None) -> None:
        """Show what is followed, also while time stands still.

        Args:
            velocity: The velocity, if one is.
            goal: The goal [m], if one is.
        """
        self._scene.flag.draw(goal)
        self.panel.show_wishes(velocity, goal=goal is not None)

    def close(self) -> None:
        """Stop the server."""
        self._server.stop()


def _address(host: str, port: int, token: str | None) -> str:
    """Return what to type into a browser."""
    name = socket.gethostname() if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    return f"http://{name}:{port}/" + ("" if token is None else f"?token={token}")
