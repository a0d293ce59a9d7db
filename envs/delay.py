"""Commands on their way to late motors."""

from __future__ import annotations

from array_api_compat import device
from jaxtyping import Float, Int

from motionlex.data.arrays import Array, namespace


class DelayLine:
    """Commands of some robots, one per physics step, oldest first: those on their way, then those of this period."""

    def __init__(self, line: Float[Array, "env age actuator"], *, late: int) -> None:
        """Take the memory for the commands.

        Args:
            line: Room for the longest delay and one control period; all arrays are of its library and device.
            late: The longest delay [physics steps].
        """
        xp, place = namespace(line), device(line)
        self.line: Float[Array, "env age actuator"] = line
        """All that the future depends on."""
        self._late, self._steps = late, line.shape[1] - late
        self._robots: Int[Array, "env 1"] = xp.arange(len(line), device=place)[:, None]
        self._arrival: Int[Array, " physics"] = late + xp.arange(self._steps, device=place)

    def send(
        self, ctrl: Float[Array, "env actuator"], delay: Int[Array, " env"]
    ) -> Float[Array, "env physics actuator"]:
        """Send a command off and return what the motors get in each physics step of its control period.

        Args:
            ctrl: What was just decided.
            delay: Physics steps that it is on its way.
        """
        self.line[:, self._late :] = ctrl[:, None]
        arriving = self.line[self._robots, self._arrival - delay[:, None]]
        left = namespace(self.line).asarray(self.line[:, self._steps :], copy=True)  # both places may overlap
        self.line[:, : self._late] = left
        return arriving
