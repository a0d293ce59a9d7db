"""What a stack makes of words: an embedding, the nearest action that the bundle knows, and whether to stand still.

BERT takes longer than a control step. Where time does not wait, words are embedded ahead on a thread of their own
(:meth:`Hearing.ready`), and heard when that is done; what happens otherwise does not depend on the machine.
"""

from __future__ import annotations

import functools
import threading
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from motionlex.controllers.bundle import Bundle, bundle_encoder, nearest_action
from motionlex.controllers.stack_state import LONGEST_TEXT, REST, Command
from motionlex.controllers.text import Encoder, TextFunction
from motionlex.data.errors import UserError

REMEMBERED = 256
"""Texts whose embeddings are remembered, those that were heard last: 38 kB each with the packaged encoder."""


@dataclass(frozen=True, kw_only=True)
class Heard:
    """Words as the latent policy hears them."""

    command: Command
    """What people are told about them."""
    text: Float[Tensor, "piece width"]
    """Embedding of what is obeyed."""
    resting: bool
    """Whether that is to stand still."""


class Hearing:
    """Embeds words and compares them with a bundle's captions."""

    def __init__(self, bundle: Bundle, encode: TextFunction | None, understood_from: float | None) -> None:
        """Find the text encoder.

        Args:
            bundle: Whose captions are known.
            encode: Text encoder; the one that the bundle was trained with when None.
            understood_from: Cosine similarity to the nearest caption below which words are not obeyed; None takes the
                bundle's.

        Raises:
            UserError: If the bundle's text encoder is not there, or has changed.
        """
        self._captions, self._same_from = bundle.captions, bundle.meta.understood_from
        self.understood_from = bundle.meta.understood_from if understood_from is None else understood_from
        """Cosine similarity to the nearest caption below which words are not obeyed."""
        self._encoder: Encoder | None = None
        if encode is None:
            self._encoder = bundle_encoder(bundle)
            encode = self._encoder.encode_heard
        encoding = threading.Lock()  # tokenisers are not made for two threads at once

        @functools.lru_cache(maxsize=REMEMBERED)
        def embed(text: str) -> Float[Tensor, "piece width"]:
            with encoding:
                return encode([text])[0]

        self._embed = embed
        self._thread: ThreadPoolExecutor | None = None
        self._ahead: tuple[str, Future[Float[Tensor, "piece width"]]] | None = None
        self._rest: Heard | None = None

    def warm_up(self) -> None:
        """Read the weights of the text encoder now: the first new words would stop a running robot for seconds."""
        if self._encoder is not None:
            self._encoder.load()
            self.rest  # noqa: B018  its embedding too

    def embed(self, text: str) -> Float[Tensor, "piece width"]:
        """Return the embedding of a text, pooled and by token."""
        ahead = self._ahead
        if ahead is not None and ahead[0] == text:
            self._ahead = None
            return ahead[1].result()
        return self._embed(text)

    def ready(self, text: str, wait_s: float = 0.0) -> bool:
        """Tell whether words can be heard at once; if not yet, they are embedded ahead. Ask until they are, then hear.

        Args:
            text: Any words; others that were asked about and not heard are given up.
            wait_s: How long to wait for them at most [s].
        """
        words = _words(text)
        if not words:
            return True  # to be refused
        if self._ahead is None or self._ahead[0] != words:
            if self._thread is None:
                self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="hearing")
            self._ahead = words, self._thread.submit(self._embed, words)
        wait((self._ahead[1],), timeout=wait_s)
        return self._ahead[1].done()

    @property
    def listening(self) -> bool:
        """Whether words were asked about that have not been heard yet."""
        return self._ahead is not None

    def close(self) -> None:
        """Give up words that were not heard, and end the thread."""
        self._ahead = None
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)
            self._thread = None

    @property
    def rest(self) -> Float[Tensor, "piece width"]:
        """Embedding of standing still."""
        return self._resting.text

    @property
    def _resting(self) -> Heard:
        if self._rest is None:
            text = self.embed(REST)
            action, similarity = nearest_action(text[0], self._captions)
            command = Command(text=REST, action=action, similarity=similarity, start_s=0.0)
            self._rest = Heard(command=command, text=text, resting=similarity >= self._same_from)
        return self._rest

    def hear(self, text: str, time: float) -> Heard:
        """Make sense of words; those that nothing known resembles mean standing still, and what means that as well.

        Args:
            text: Any words; those after 1,000 characters are not read.
            time: When they are said [s].

        Raises:
            UserError: If the text is empty.
        """
        words = _words(text)
        if not words:
            raise UserError('the command is empty: say what the robot should do, e.g. "walk forward"')
        embedding = self.embed(words)
        action, similarity = nearest_action(embedding[0], self._captions)
        understood = similarity >= self.understood_from
        command = Command(text=text, action=action, similarity=similarity, start_s=time, understood=understood)
        if not understood:
            return Heard(command=command, text=self.rest, resting=True)
        rest = self._resting
        return Heard(command=command, text=embedding, resting=rest.resting and action == rest.command.action)


def _words(text: str) -> str:
    """Return what is read of a text."""
    return text[:LONGEST_TEXT].strip()
