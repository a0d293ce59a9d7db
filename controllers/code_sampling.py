"""How codes are drawn from the latent policy: guidance, temperature, top-k and top-p."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from motionlex.controllers.conditions import Conditions
from motionlex.data.errors import UserError

COLDEST = 1e-6
"""Temperatures below this one are 0: the most likely code alone."""


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How codes are drawn from the latent policy's distribution."""

    temperature: float = 1.0
    """Divides the logits; below one sharpens, 0 takes the most likely code."""
    top_p: float = 1.0
    """Keep the smallest set of codes that holds this probability, renormalised; 1 keeps all."""
    top_k: int = 0
    """Keep the so many most likely codes, renormalised; 0 keeps all."""
    guidance: float = 1.0
    """Classifier-free guidance on the text: 1 is plain conditioning, larger follows the text more literally."""
    path_guidance: float = 1.0
    """The same on the desired path, where there is one."""
    candidates: int = 1
    """With a desired path so many segments are drawn, and the one whose centre of mass keeps to it best is taken."""

    def __post_init__(self) -> None:
        good = 0 <= self.temperature < math.inf and 0 < self.top_p <= 1 and self.top_k >= 0
        if not (
            good and self.candidates >= 1 and 0 <= self.guidance < math.inf and 0 <= self.path_guidance < math.inf
        ):  # nor is NaN good
            raise UserError(
                f"sampling: temperature {self.temperature} must be >= 0, top-p {self.top_p} in (0, 1], top-k "
                f"{self.top_k} a whole number >= 0, guidance {self.guidance} and {self.path_guidance} >= 0, candidates "
                f"{self.candidates} >= 1"
            )


def guided_conditions(conditions: Conditions, sampling: SamplingConfig) -> tuple[Conditions, tuple[float, ...]]:
    """Stack the conditions with the ones that guidance compares them with.

    Returns:
        The conditions, then without text and without path as far as either is given and guided, and the guidance: the
        weight of the whole conditions first (they sum to 1).
    """
    parts, weights = [conditions], [1.0]
    wanted = (
        (conditions.without_text, sampling.guidance, conditions.has_text),
        (conditions.without_path, sampling.path_guidance, conditions.has_path),
    )
    for withheld, guidance, given in wanted:
        if guidance != 1.0 and bool(given.any()):  # what nobody is given makes no difference
            parts.append(withheld())
            weights[0] += guidance - 1.0
            weights.append(1.0 - guidance)
    return functools.reduce(Conditions.concatenate, parts), tuple(weights)


def guide(logits: Float[Tensor, "rows vocabulary"], weights: tuple[float, ...]) -> Float[Tensor, "batch vocabulary"]:
    r"""Classifier-free guidance: :math:`\log q + \sum_c (g_c - 1)(\log q - \log q_{-c})`, unnormalised.

    Args:
        logits: With all conditions, then without each guided one, in blocks of rows.
        weights: Weight of each block: :math:`1 + \sum_c (g_c - 1)`, then :math:`1 - g_c`.

    Source: Ho and Salimans 2022, on logits of codes; several conditions as in Brooks et al. 2023, each against all the
    others.
    """
    blocks = logits.log_softmax(dim=-1).chunk(len(weights))
    return torch.stack([weight * block for weight, block in zip(weights, blocks, strict=True)]).sum(dim=0)


def reshape_logits(
    logits: Float[Tensor, "batch vocabulary"], sampling: SamplingConfig
) -> Float[Tensor, "batch vocabulary"]:
    """Apply temperature, then keep the most likely codes (top-k) and of these the nucleus (top-p).

    Args:
        logits: Unnormalised log-probabilities.
        sampling: Temperature and nucleus; its guidance is not used here.

    Returns:
        Logits of the distribution to draw from; minus infinity where a code is excluded.
    """
    if sampling.temperature < COLDEST:
        best = logits.argmax(dim=-1, keepdim=True)
        return torch.full_like(logits, -torch.inf).scatter(-1, best, 0.0)
    logits = logits / sampling.temperature
    if 0 < sampling.top_k < logits.shape[-1]:
        best = logits.topk(sampling.top_k, dim=-1).indices
        logits = torch.full_like(logits, -torch.inf).scatter(-1, best, logits.gather(-1, best))
    if sampling.top_p == 1.0:
        return logits
    ordered, order = logits.softmax(dim=-1).sort(dim=-1, descending=True)
    before = ordered.cumsum(dim=-1) - ordered  # the most likely code has nothing before it and always stays
    excluded = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, order, before >= sampling.top_p)
    return logits.masked_fill(excluded, -torch.inf)
