"""A recording that is written while the simulation goes on."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from motionlex.controllers.recording import Recording
from motionlex.data.errors import UserError


class Saving:
    """Writes recordings on a thread of its own, one at a time; who began asks what came of it."""

    def __init__(self) -> None:
        """Begin with nothing to write."""
        self._writing: tuple[Path, Future[Path], ThreadPoolExecutor] | None = None

    def begin(self, recording: Recording, path: Path) -> None:
        """Write what was recorded up to now.

        Args:
            recording: May go on.
            path: Name of the npz file.

        Raises:
            UserError: If the one before is being written still.
        """
        if self._writing is not None:
            raise UserError(f"{self._writing[0]} is being written still: wait until that is said to be done")
        thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="saving")
        self._writing = path, thread.submit(recording.snapshot().save, path), thread

    def outcome(self, *, wait: bool = False) -> str | None:
        """Return in words what came of what was begun, once; None when there is nothing to say.

        Args:
            wait: Whether to wait for what is being written.
        """
        if self._writing is None:
            return None
        path, written, thread = self._writing
        if not (wait or written.done()):
            return None
        thread.shutdown()
        self._writing = None
        try:
            return f"{path} and {written.result()} written"
        except OSError as error:
            return f"{path} is not written whole: {error.strerror or error}: {error.filename}"
