"""Segments decided ahead of time, on a thread of their own, while the one before runs."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor

from jaxtyping import Float
from torch import Tensor

from motionlex.controllers.latent_data import REPLAN_FRAMES
from motionlex.controllers.planner import DesiredPath, Planner, Segment


class Drafting:
    """The only one that lets the planner choose; between :meth:`begin` and :meth:`take` nobody else may touch it."""

    def __init__(self, planner: Planner, lead: int) -> None:
        """Begin without a draft.

        Args:
            planner: Chooses, decodes and places.
            lead: Control steps before the end of a segment at which the next is drafted; 0 starts no thread.
        """
        self._planner = planner
        self.lead = lead
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="planner") if lead else None
        self._draft: Future[Segment] | None = None
        self.waited_s = 0.0
        """Time that control steps have waited for codes [s]."""
        self.decided_s: list[float] = []
        """Time that choosing, decoding and placing took, by segment [s]."""

    def due(self, cursor: int) -> bool:
        """Tell whether a draft is to begin after so many steps of the running segment."""
        return self._thread is not None and self._draft is None and cursor >= REPLAN_FRAMES - self.lead

    @property
    def working(self) -> bool:
        """Whether a draft is being made: :meth:`take` would wait for it."""
        return self._draft is not None and not self._draft.done()

    def begin(self, text: Float[Tensor, "piece width"], path: DesiredPath | None) -> None:
        """Draft the segment that takes over when the running one, which is committed already, has been executed."""
        assert self._thread is not None
        self._draft = self._thread.submit(self.decide, text, path)

    def decide(self, text: Float[Tensor, "piece width"], path: DesiredPath | None) -> Segment:
        """Choose, decode and place a segment now."""
        began = time.perf_counter()
        segment = self._planner.replan(text, path)
        self.decided_s.append(time.perf_counter() - began)
        return segment

    def take(self) -> Segment | None:
        """Wait for the draft and hand it over; None when there is none."""
        draft, self._draft = self._draft, None
        if draft is None:
            return None
        began = time.perf_counter()
        segment = draft.result()
        self.waited_s += time.perf_counter() - began
        return segment

    def settle(self) -> None:
        """Wait until the planner and its draws of codes are at rest; the draft stays."""
        if self._draft is not None:
            self._draft.result()

    def discard(self) -> None:
        """Forget the draft; its draws of codes are used up."""
        self.settle()
        self._draft = None
