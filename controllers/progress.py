"""Progress of a loop as log lines with its rate and the time that is left."""

from __future__ import annotations

import logging
import time

logger = logging.getLogger(__name__)
LOG_S = 5.0
"""Time between two lines [s]."""


class ProgressLine:
    """Counts to a known end; says where it is every 5 s and at the end."""

    def __init__(self, total: int, unit: str) -> None:
        """Begin at nothing.

        Args:
            total: How many there will be.
            unit: What is counted, e.g. ``"prompt"``.
        """
        self._total, self._unit = total, unit
        self._done, self._began, self._said = 0, time.monotonic(), time.monotonic()

    def advance(self, note: str = "") -> None:
        """Count one more.

        Args:
            note: Said at the end of the line.
        """
        self._done += 1
        now = time.monotonic()
        if now - self._said < LOG_S and self._done < self._total:
            return
        self._said = now
        each = (now - self._began) / self._done
        left = time.strftime("%H:%M:%S", time.gmtime(each * (self._total - self._done)))
        logger.info("%s %d/%d  %.3g s each  left %s  %s", self._unit, self._done, self._total, each, left, note)
