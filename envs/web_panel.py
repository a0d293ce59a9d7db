"""What the page's panel shows and asks: prompt, buttons, sliders, what was understood, codes and plots.

Everything but the prompt box is shared by all browsers; each browser types for itself. Nothing here touches the
simulation: a :class:`Listener` is told what was wanted, on threads of the web server.
"""

from __future__ import annotations

import html
from collections import deque
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import viser
from jaxtyping import Float, Int

from motionlex.envs.steering import Velocity
from motionlex.envs.web_scene import DONE, GHOST, WANTED
from motionlex.envs.web_steering import Flag, Steered, Steering

LINES = 5
"""Messages that stay on the page."""
FASTEST = 2.0
"""Largest factor of real time that can be asked for."""
PUSHES = {
    "from behind": (0.6, 0.0),
    "from the front": (-0.6, 0.0),
    "to the left": (0.0, 0.6),
    "to the right": (0.0, -0.6),
}
"""Changes of velocity, forward and to the left [m/s]."""
PLOTS = ("Height of the root [m]", "Speed [m/s]", "Highest torque [% of the motor's limit]")
"""Titles of the plots, in the order of the history's columns."""
ACROSS = 16
"""Codes side by side."""
WIDTH = 320.0
"""Width of either panel [pixel]."""
CELL = "height:1.3em;font-size:9px;line-height:1.3em;text-align:center;color:#222"
BOX = "padding:0 0.75em 0.4em;font-size:0.85em;line-height:1.35"


@runtime_checkable
class Listener(Steered, Protocol):
    """Is told what people want; every method returns at once and may be called from any thread."""

    def say(self, text: str, client: int) -> str | None:
        """Take a prompt; return why it is refused, None if it is not."""

    def push(self, forward: float, left: float, client: int) -> str | None:
        """Take a wish for a push [m/s]; return why it is refused."""

    def reset(self, client: int) -> str | None:
        """Take a wish to begin anew; return why it is refused."""

    def pause(self, paused: bool) -> None:
        """Take a wish to stand still or to go on."""

    def speed(self, factor: float) -> None:
        """Take a wish for a factor of real time."""


class Panel:
    """The widgets."""

    def __init__(
        self, server: viser.ViserServer, listener: Listener | None, suggestions: Sequence[str], flag: Flag
    ) -> None:
        """Send the widgets.

        Args:
            server: Where to show them.
            listener: Who is told; None leaves the controls out.
            suggestions: Prompts that a button sends.
            flag: What is dragged to where the robot is to go.
        """
        self._listener, self._lines = listener, deque[str](maxlen=LINES)
        self._paused, self._pause, self._speed = False, None, None
        self._steering: Steering | None = None
        gui = server.gui
        gui.configure_theme(show_logo=False, show_share_button=False)
        self._said = gui.add_html("")
        if listener is not None:
            self._add_commands(gui, listener, suggestions)
            self._steering = Steering(gui, listener, flag)
            server.on_client_connect(self._add_prompt)
        measured = gui.add_panel()
        with measured.add_tab("Measured", viser.Icon.CHART_LINE):
            self._clock = gui.add_html("")
            self._plots = [_add_plot(gui, title) for title in PLOTS]
            self._codes = gui.add_html("")
            gui.add_html(_legend())
        measured.dock_left()
        measured.set_width(WIDTH)
        gui.main_panel.dock_right()
        gui.main_panel.set_width(WIDTH)
        self._shown: Int[np.ndarray, " token"] | None = None

    def _add_prompt(self, client: viser.ClientHandle) -> None:
        """Give a browser that has just connected its prompt box; a reloaded page is a new browser."""
        listener = self._listener
        assert listener is not None
        with client.gui.add_form(None, order=0.0) as form:
            box = client.gui.add_text("Command", "", hint='Any words, e.g. "walk forward"; Enter sends them.')
            send = client.gui.add_button("Send", icon=viser.Icon.SEND)

        def tell(_: object) -> None:
            if not box.value.strip():
                return
            refusal = listener.say(box.value, client.client_id)
            if refusal is None:
                box.value = ""
            _complain(client, refusal)

        form.on_submit(tell)
        send.on_click(tell)

    def _add_commands(self, gui: viser.GuiApi, listener: Listener, suggestions: Sequence[str]) -> None:
        """Add what starts and stops."""
        if suggestions:
            known = gui.add_button_group("It knows", tuple(suggestions))
            known.on_click(lambda event: _complain(event.client, listener.say(event.target.value, event.client_id)))
        self._pause = pause = gui.add_button("Pause", icon=viser.Icon.PLAYER_PAUSE)
        pause.on_click(lambda _: listener.pause(not self._paused))
        self._speed = speed = gui.add_slider(
            "Speed", min=0.0, max=FASTEST, step=0.1, initial_value=1.0, hint="1 is real time, 0 stands still"
        )

        async def pace(event: viser.GuiEvent) -> None:  # async keeps the order: a thread might read a later value
            if event.client_id is not None:  # moved by show_controls, it is nobody's wish
                listener.speed(float(speed.value))

        speed.on_update(pace)
        push = gui.add_button_group("Push", tuple(PUSHES))
        push.on_click(
            lambda event: _complain(
                event.client, listener.push(*PUSHES.get(event.target.value, (0.0, 0.0)), event.client_id)
            )
        )
        reset = gui.add_button("Reset", icon=viser.Icon.REFRESH)
        reset.on_click(lambda event: _complain(event.client, listener.reset(event.client_id)))

    def tell(self, message: str) -> None:
        """Show a message above the older ones; it is plain text, whatever it holds."""
        self._lines.appendleft(message)
        newest, *older = (html.escape(line) for line in self._lines)
        rows = [f"<div><b>{newest}</b></div>"] + [f'<div style="opacity:0.6">{line}</div>' for line in older]
        self._said.content = f'<div data-motionlex="said" style="{BOX};overflow-wrap:anywhere">{"".join(rows)}</div>'

    def show_controls(self, *, paused: bool, speed: float) -> None:
        """Make button and slider say how the simulation runs, whoever changed it."""
        self._paused = paused
        if self._pause is not None and self._speed is not None:
            self._pause.label = "Go on" if paused else "Pause"
            self._pause.icon = viser.Icon.PLAYER_PLAY if paused else viser.Icon.PLAYER_PAUSE
            if abs(self._speed.value - speed) > 1e-9:
                self._speed.value = speed

    def show_wishes(self, velocity: Velocity | None, *, goal: bool) -> None:
        """Make boxes and sliders say which velocity is followed, and whether a goal is, whoever changed it."""
        if self._steering is not None:
            self._steering.show(velocity, goal=goal)

    def show_codes(self, codes: Int[np.ndarray, " token"]) -> None:
        """Show the codes of the running segment as cells, one colour per code."""
        if self._shown is not None and np.array_equal(codes, self._shown):
            return
        self._shown = codes.copy()
        cells = "".join(
            f'<span style="{CELL};background:hsl({137.508 * code % 360:.0f},65%,75%)">{code}</span>'
            for code in codes.tolist()
        )
        grid = f'<div style="display:grid;grid-template-columns:repeat({ACROSS},1fr);gap:1px">{cells}</div>'
        self._codes.content = f'<div data-motionlex="codes" style="{BOX}">Codes of the running segment{grid}</div>'

    def show_history(self, table: Float[np.ndarray, "row 6"], ratio: float) -> None:
        """Show the last seconds.

        Args:
            table: Rows of :attr:`motionlex.envs.web_history.History.table`.
            ratio: Simulated seconds per real second, measured.
        """
        now, height, speed = table[-1, :3].tolist()
        words = f"{now:.1f} s · {ratio:.1f} of real time · {height:.2f} m · {speed:.2f} m/s"
        self._clock.content = f'<div data-motionlex="clock" style="{BOX}">{words}</div>'
        if len(table) > 1:
            for plot, column in zip(self._plots, range(1, 1 + len(PLOTS)), strict=True):
                plot.data = (table[:, 0].copy(), table[:, column].copy())


def _complain(client: viser.ClientHandle | None, refusal: str | None) -> None:
    """Tell one browser why nothing happens."""
    if client is not None and refusal is not None:
        client.add_notification("Not done", refusal, auto_close_seconds=4.0, color="orange")


def _legend() -> str:
    colors = {"planned": GHOST, "wanted": WANTED, "walked": DONE}
    words = (f'<b style="color:rgb{color}">{name}</b>' for name, color in colors.items())
    return f'<div style="{BOX}">Lines on the floor: {", ".join(words)}</div>'


def _add_plot(gui: viser.GuiApi, title: str) -> viser.GuiUplotHandle:
    axis = viser.uplot.Axis(size=38, font="10px sans-serif")
    return gui.add_uplot(
        (np.array([0.0, 1.0]), np.array([0.0, 0.0])),
        (viser.uplot.Series(label="s"), viser.uplot.Series(label=title, stroke="#1c7ed6", width=1.5)),
        title=title,
        scales={"x": viser.uplot.Scale(time=False), "y": viser.uplot.Scale(range=(0.0, None))},
        axes=(viser.uplot.Axis(size=22, font="10px sans-serif"), axis),
        legend=viser.uplot.Legend(show=False),
        height=120,
        padding=(4, 8, 0, 0),
    )
