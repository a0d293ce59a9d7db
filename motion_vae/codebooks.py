"""State of a codebook besides its weights: running statistics, replacement of dead codes, k-means start."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from motionlex.motion_vae.distributed import broadcast_from_first, synchronised_sum, world_size
from motionlex.motion_vae.options import check_choice, check_positive
from motionlex.motion_vae.quantisation import code_sums, k_means

SMALLEST_COUNT = 1e-5
"""A code with a smaller running count keeps its place: the ratio of its sums means nothing any more."""


@dataclass(frozen=True, kw_only=True)
class Replacement:
    """When a code counts as dead and how it starts anew, at a random vector of the batch."""

    criterion: Literal["rare", "unused"] = "rare"
    """rare: its running count is below ``share``; unused: it got no vector in the last ``steps`` steps."""
    share: float = 0.02
    """Of the count under even use."""
    steps: int = 100
    """Updates without a vector."""
    every: int = 10
    """Updates between two rounds of replacement."""
    restart_share: float = 0.1
    """Running count of a replaced code, of the count under even use: enough to survive until the next round."""

    def __post_init__(self) -> None:
        check_choice("criterion", self.criterion, ("rare", "unused"))
        check_positive(share=self.share, steps=self.steps, every=self.every, restart_share=self.restart_share)
        if self.restart_share <= self.share:
            raise ValueError(f"restart_share must exceed share={self.share}, got {self.restart_share}")


class MovingCodebook(nn.Module):
    r"""Running counts and sums of the vectors of each code; their ratio is a codebook.

    .. math:: N_k \leftarrow \gamma N_k + (1 - \gamma) n_k, \quad
              m_k \leftarrow \gamma m_k + (1 - \gamma) \sum_{i: k_i = k} v_i, \quad e_k = m_k / N_k

    Counts and sums are added up over ranks, so that replicas stay equal; vectors for dead codes come from rank 0.

    Args:
        vocabulary: Number of codes.
        width: Features of a code.
        decay: gamma in (0, 1), share of the old average kept at each step.
        replacement: How dead codes come alive; None leaves them.
    Source: van den Oord et al. 2017, appendix A.1; replacement of rare codes Zeghidour et al. 2021 (SoundStream) and
        Dhariwal et al. 2020 (Jukebox), 3.1.
    """

    def __init__(self, vocabulary: int, width: int, *, decay: float, replacement: Replacement | None = None) -> None:
        super().__init__()
        self.decay, self.replacement = decay, replacement
        self.register_buffer("count", torch.zeros(vocabulary))
        self.register_buffer("total", torch.zeros(vocabulary, width))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        if replacement is not None and replacement.criterion == "unused":
            self.register_buffer("idle", torch.zeros(vocabulary, dtype=torch.long))

    @torch.no_grad()
    def reset(self, codebook: Float[Tensor, "code width"]) -> None:
        """Begin the averages at given codes, each as if it had one vector."""
        self.count.fill_(1.0)
        self.total.copy_(codebook)

    @torch.no_grad()
    def start(
        self, codebook: Float[Tensor, "code width"], vectors: Float[Tensor, "vector width"], generator: torch.Generator
    ) -> None:
        """Fill the codebook with random vectors of the first batch (of its first part), once."""
        if not bool(self.count.any()):
            drawn = vectors[self._draw(len(codebook), len(vectors), generator)]
            broadcast_from_first((drawn,))
            codebook.copy_(drawn)
            self.reset(codebook)

    @torch.no_grad()
    def update(
        self,
        codebook: Float[Tensor, "code width"],
        vectors: Float[Tensor, "vector width"],
        indices: Int[Tensor, " vector"],
        generator: torch.Generator,
    ) -> None:
        """Move the codes to the mean of their vectors; now and then replace dead ones by vectors of the batch."""
        dead, drawn = self.advance(vectors, indices, generator)
        if drawn is not None:
            self.total[dead] = self.count[dead].unsqueeze(-1) * drawn
        alive = (self.count > SMALLEST_COUNT).unsqueeze(-1)
        mean = self.total / self.count.clamp_min(SMALLEST_COUNT).unsqueeze(-1)
        codebook.copy_(torch.where(alive, mean, codebook))

    @torch.no_grad()
    def advance(
        self, vectors: Float[Tensor, "vector width"], indices: Int[Tensor, " vector"], generator: torch.Generator
    ) -> tuple[Tensor, Tensor | None]:
        """Advance the statistics by one batch and restart the counts of dead codes.

        Returns:
            Which codes are to be replaced now (code,), and by what (dead, width); None if there are none.
        """
        counts, sums = (synchronised_sum(part) for part in code_sums(vectors, indices, len(self.count)))
        self.count = self.decay * self.count + (1.0 - self.decay) * counts
        self.total = self.decay * self.total + (1.0 - self.decay) * sums
        self.steps += 1
        even_share = len(vectors) * world_size() / len(self.count)
        dead = self._dead(counts, even_share)
        number = int(dead.sum())
        if number == 0:
            return dead, None
        assert self.replacement is not None
        drawn = vectors[self._draw(number, len(vectors), generator)]
        broadcast_from_first((drawn,))
        self.count[dead] = self.replacement.restart_share * even_share
        if self.replacement.criterion == "unused":
            self.idle[dead] = 0
        return dead, drawn

    def _dead(self, counts: Float[Tensor, " code"], even_share: float) -> Tensor:
        replacement = self.replacement
        if replacement is not None and replacement.criterion == "unused":
            self.idle = torch.where(counts > 0.0, 0, self.idle + 1)
        if replacement is None or self.steps % replacement.every != 0:
            return torch.zeros_like(self.count, dtype=torch.bool)
        if replacement.criterion == "unused":
            return self.idle >= replacement.steps
        return self.count < replacement.share * even_share

    def _draw(self, count: int, size: int, generator: torch.Generator) -> Int[Tensor, " draw"]:
        return torch.randint(size, (count,), generator=generator, device=self.count.device)


class KMeansStart(nn.Module):
    """Sets a codebook to the cluster means of the first batch (of its first part on rank 0), once in a run.

    Source: Lancucki et al. 2020; GM-VQ, section 5.1, for all methods of its table.
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("done", torch.zeros((), dtype=torch.bool))

    @torch.no_grad()
    def run(
        self, codebook: Float[Tensor, "code width"], vectors: Float[Tensor, "vector width"], generator: torch.Generator
    ) -> bool:
        """Overwrite ``codebook`` on the first call; every rank then has the clusters of rank 0.

        Returns:
            Whether it did so.
        """
        if bool(self.done):
            return False
        centres = k_means(vectors, len(codebook), generator)
        broadcast_from_first((centres,))
        codebook.copy_(centres)
        self.done.fill_(True)
        return True
