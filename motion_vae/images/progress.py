"""Lines of progress with rate and time left, for loops that are no runs of the trainer."""

import logging
import time
from collections.abc import Callable
from datetime import timedelta

from motionlex.motion_vae.trainer import LOG_SECONDS

logger = logging.getLogger(__name__)


class Progress:
    """Logs where a loop is, every few seconds and at its end.

    Args:
        name: What is being done.
        steps: Steps of the loop.
        clock: Gives the time [s].
    """

    def __init__(self, name: str, steps: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.name, self.steps, self.clock = name, steps, clock
        self.started = self.last_line = clock()

    def done(self, step: int, value: Callable[[], str]) -> None:
        """Take note that so many steps are done.

        Args:
            step: At least 1.
            value: Says what there is to say; called only where a line is due, since it may wait for a GPU.
        """
        now = self.clock()
        if now - self.last_line < LOG_SECONDS and step < self.steps:
            return
        self.last_line = now
        each = (now - self.started) / step
        left = timedelta(seconds=round(each * (self.steps - step)))
        logger.info(f"{self.name}, step {step}/{self.steps}  {each:.3f} s/step  left {left}  {value()}")
