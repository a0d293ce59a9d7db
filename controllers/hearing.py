"""What a stack makes of words: an embedding, the nearest action that the bundle knows, and whether to stand still."""

from __future__ import annotations

import functools
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
        self._embed = functools.lru_cache(maxsize=REMEMBERED)(lambda text: encode([text])[0])
        self._rest: Heard | None = None

    def warm_up(self) -> None:
        """Read the weights of the text encoder now: the first new words would stop a running robot for seconds."""
        if self._encoder is not None:
            self._encoder.load()
            self.rest  # noqa: B018  its embedding too

    def embed(self, text: str) -> Float[Tensor, "piece width"]:
        """Return the embedding of a text, pooled and by token."""
        return self._embed(text)

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
        words = text[:LONGEST_TEXT].strip()
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
