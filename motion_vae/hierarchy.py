"""What hierarchical autoencoders share: the walk down the ladder, the objective with free bits, the order of tokens."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution

from motionlex.motion_vae.contract import Codes, DiscreteAutoencoder, LossTerms, ParameterGroup
from motionlex.motion_vae.distributed import synchronised_mean
from motionlex.motion_vae.domain import Domain
from motionlex.motion_vae.estimators import exponential_schedule
from motionlex.motion_vae.networks.ladder import Ladder, LadderConfig, LadderShape, layer_grids
from motionlex.motion_vae.options import check_choice, check_positive

Choice = Callable[[int, Tensor | None, Tensor | None], Tensor]
"""From a layer, its numbers for q and for p to its latents (batch, token, latent)."""


@dataclass(frozen=True, kw_only=True)
class HierarchyConfig:
    """A ladder of latent layers."""

    grid_tokens: tuple[int, ...] = (64, 32, 16, 8, 4)
    """Tokens of every layer, finest first; each a grid of the data's shape, all of its sides divided (or multiplied) by
    one whole number. The default is for 32 frames; images of 32 x 32 pixels take 256,64,16,4,1."""
    ladder: LadderConfig = field(default_factory=LadderConfig)
    """Sizes of the networks."""
    top_prior: Literal["fixed", "learned"] = "fixed"
    """Distribution of the topmost layer: fixed (uniform, standard normal) or given by a learned start of the chain."""
    beta_start: float = 1.0
    """Weight of the KL at the first step."""
    beta_end: float = 1.0
    """Weight of the KL at the end of the schedule, and in the reported beta-ELBO."""
    free_nats: float = 0.0
    """Free bits: KL [nat/token] of a layer, averaged over its tokens and the batch, that is not pushed down further."""

    def __post_init__(self) -> None:
        if not self.grid_tokens or any(n < 1 or n != int(n) for n in self.grid_tokens):
            raise ValueError(f"grid_tokens wants at least one layer and whole numbers above 0, got {self.grid_tokens}")
        if list(self.grid_tokens) != sorted(self.grid_tokens, reverse=True):
            raise ValueError(f"grid_tokens must not grow from one layer to the next, finest first: {self.grid_tokens}")
        check_choice("top_prior", self.top_prior, ("fixed", "learned"))
        check_positive(beta_start=self.beta_start, beta_end=self.beta_end)
        if not self.free_nats >= 0.0:
            raise ValueError(f"free_nats must be >= 0, got {self.free_nats}")


def free_bits(divergences: Sequence[Float[Tensor, " batch"]], floors: Sequence[float]) -> Float[Tensor, ""]:
    r"""Sum the divergences of all layers, each counted at least at its floor.

    .. math:: \sum_\ell \max\bigl(\lambda_\ell, \overline{D_\ell}\bigr)

    Args:
        divergences: D, KL [nat] of every layer.
        floors: lambda [nat] of every layer.

    Returns:
        Sum [nat]; a layer below its floor has no gradient.
    Source: Kingma et al. 2016, appendix C.8, with layers as the groups; the mean runs over the batch of all ranks.
    """
    means = [synchronised_mean(divergence.mean()) for divergence in divergences]
    return torch.stack([mean.clamp_min(floor) for mean, floor in zip(means, floors)]).sum()


class HierarchicalAutoencoder(DiscreteAutoencoder):
    """A ladder with latents in every layer; subclasses say how numbers define distributions.

    Tokens are concatenated in the order in which the model draws them: the coarsest layer first, each layer in
    row-major order. All latents have the same width.

    Args:
        config: Sizes and schedules.
        domain: The kind of data.
        latent: Values of the latent of one token.
        posterior: Numbers that define q of one token.
        prior: Numbers that define p of one token.

    Raises:
        UserError: If a layer's tokens are no grid over this domain's data.
    """

    def __init__(
        self, config: HierarchyConfig, domain: Domain, *, vocabulary: int, latent: int, posterior: int, prior: int
    ) -> None:
        super().__init__()
        self.config, self.domain, self.vocabulary = config, domain, vocabulary
        self.tokens = sum(config.grid_tokens)
        self.layers = len(config.grid_tokens)
        self.likelihood = domain.likelihood()
        shape = LadderShape(
            items=domain.grid,
            features=domain.features,
            channels=self.likelihood.channels,
            grids=layer_grids(domain.grid, config.grid_tokens),
            latent=latent,
            posterior=posterior,
            prior=prior,
            learned_top=config.top_prior == "learned",
        )
        self.ladder = Ladder(config.ladder, shape)

    @abstractmethod
    def divergence(self, layer: int, posterior: Tensor, prior: Tensor | None) -> Float[Tensor, " batch"]:
        """KL [nat] of one layer from the numbers that define q and p; p is None at a top of fixed distribution."""

    @abstractmethod
    def relaxed(
        self, layer: int, posterior: Tensor, prior: Tensor | None, generator: torch.Generator, *, progress: float
    ) -> tuple[Float[Tensor, "batch token latent"], Float[Tensor, " batch"]]:
        """Draw latents of one layer with a gradient for q; also what :meth:`divergence` gives."""

    def annealed(self, progress: float) -> dict[str, float]:
        """What else is annealed, for the metrics."""
        return {}

    def walk(self, bottom: Sequence[Tensor | None], batch: int, choose: Choice) -> Float[Tensor, "batch item raw"]:
        """Go down the ladder, q and p sharing the chain, and return what the likelihood needs.

        Args:
            bottom: Bottom-up features of every layer, finest first; None where q is not asked for.
            batch: Examples.
            choose: Gives every layer's latents, coarsest first; its q is None where ``bottom`` is.
        """
        state = self.ladder.start(batch)
        for layer in reversed(range(self.layers)):
            features = bottom[layer]
            posterior = None if features is None else self.ladder.posterior(layer, state, features)
            state = self.ladder.descend(layer, state, choose(layer, posterior, self.ladder.prior(layer, state)))
        return self.ladder.raw(state)

    def ancestors(self, batch: int, choose: Choice) -> Float[Tensor, "batch item raw"]:
        """Go down the ladder without data: samples of the prior, or given latents."""
        return self.walk([None] * self.layers, batch, choose)

    def by_layer(self, tokens: Tensor) -> tuple[Tensor, ...]:
        """Cut (batch, token, ...) into layers, finest first."""
        return tokens.split(list(reversed(self.config.grid_tokens)), dim=1)[::-1]

    def decode_embeddings(self, embeddings: Float[Tensor, "*batch token latent"]) -> Distribution:
        """p(x|z) from the latents of all layers."""
        flat = embeddings.reshape(-1, *embeddings.shape[-2:])
        parts = self.by_layer(flat)
        raw = self.ancestors(len(flat), lambda layer, posterior, prior: parts[layer])
        return self.likelihood(raw.view(*embeddings.shape[:-2], *raw.shape[1:]))

    @abstractmethod
    def sample_prior(self, count: int, generator: torch.Generator) -> Codes:
        """Draw codes from p by one pass down the ladder (ancestral sampling); log_prob is None."""

    def loss(self, x: Float[Tensor, "batch item feature"], generator: torch.Generator, *, progress: float) -> LossTerms:
        r"""Negative beta-ELBO of one draw per example, with free bits.

        .. math:: -\ln p(x|z) + \beta \sum_\ell \max(\lambda M_\ell, KL(q(z_\ell|z_{>\ell}, x) \| p(z_\ell|z_{>\ell})))

        Args:
            x: Data.
            generator: Source of the draws.
            progress: step / schedule_steps; sets beta and whatever else is annealed.

        Returns:
            Reconstruction and weighted KL, with diagnostics; layer 1 is the finest.
        Source: RRVQ, equation 5 and appendix C.
        """
        beta = exponential_schedule(self.config.beta_start, self.config.beta_end, progress)
        divergences: list[Tensor] = [x] * self.layers

        def choose(layer: int, posterior: Tensor | None, prior: Tensor | None) -> Tensor:
            assert posterior is not None
            latents, divergences[layer] = self.relaxed(layer, posterior, prior, generator, progress=progress)
            return latents

        reconstruction = self.likelihood(self.walk(self.ladder.bottom_up(x), len(x), choose))
        log_p = reconstruction.log_prob(x).mean()
        kl = free_bits(divergences, [self.config.free_nats * count for count in self.config.grid_tokens])
        terms = {"negative_log_p_nats": -log_p, "weighted_kl_nats": beta * kl}
        layer_kl = [divergence.detach().mean() for divergence in divergences]
        annealed = {"beta": beta, **self.annealed(progress)}
        metrics = {
            "mean_squared_error": (reconstruction.mean - x).detach().square().mean(),
            "log_p_nats": log_p.detach(),
            "kl_nats": torch.stack(layer_kl).sum(),
            **{f"kl_layer_{number}_nats": value for number, value in enumerate(layer_kl, start=1)},
            **{name: torch.tensor(value) for name, value in annealed.items()},
        }
        total = torch.stack(list(terms.values())).sum()
        return LossTerms(total=total, terms={name: term.detach() for name, term in terms.items()}, metrics=metrics)

    def parameter_groups(self) -> tuple[ParameterGroup, ...]:
        """One group of everything."""
        return (ParameterGroup(name="networks", parameters=list(self.parameters())),)

    @property
    def final_beta(self) -> float | None:
        """Weight of the KL at the end of the schedule."""
        return self.config.beta_end
