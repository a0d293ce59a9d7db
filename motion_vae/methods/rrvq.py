"""RRVQ-VAE: a hierarchy of categorical latents whose distributions are responsibilities of a learned mixture.

Every layer has codebooks of means and diagonal variances. A network gives an embedding for q and one for p, and both
distributions are the responsibilities of the same mixture for their embedding. One layer of unit variances
is rVQ-VAE (Sonderby et al. 2017).
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from motionlex.motion_vae.contract import Codes, Method, OptimisationConfig, Preset
from motionlex.motion_vae.domain import Domain
from motionlex.motion_vae.estimators import exponential_schedule, gumbel_noise, gumbel_softmax
from motionlex.motion_vae.hierarchy import HierarchicalAutoencoder, HierarchyConfig
from motionlex.motion_vae.losses import gathered_log_prob
from motionlex.motion_vae.networks.autoregressive import inverse_cdf_sample
from motionlex.motion_vae.networks.ladder import LadderConfig
from motionlex.motion_vae.options import check_choice, check_positive, check_vocabulary
from motionlex.motion_vae.quantisation import mixed_codes
from motionlex.motion_vae.responsibilities import categorical_kl, code_bits, responsibility_logits

LOG_VARIANCE_LIMIT = math.log(1e4)
"""Largest size of a learned log-variance, so that no code can claim all or no embeddings by its scale alone."""

CODE_LENGTH = 2.0
"""Typical distance of an initial code from the origin, in units of the initial standard deviations (not in the paper):
near codes overlap, so that the first distributions are neither uniform nor one-hot, whatever the width."""


@dataclass(frozen=True, kw_only=True)
class RRVQConfig(HierarchyConfig):
    """Relaxed-responsibility vector quantisation; ``prior`` and ``variances`` span table G.1."""

    vocabulary: int = 256
    """Codes of every layer."""
    embedding_width: int = 128
    """Values of a code in the codebook."""
    prior: Literal["responsibilities", "direct"] = "responsibilities"
    """How p of a layer is given: by an embedding and the codebooks (Embedding-Cat) or as logits (Direct-Cat)."""
    variances: Literal["learned", "unit"] = "learned"
    """Whether the diagonal variances of the mixture are learned or all one."""
    temperature_start: float = 1.0
    """Temperature of the Gumbel-softmax at the first step (not in the paper)."""
    temperature_end: float = 0.3
    """Temperature of the Gumbel-softmax at the end of the schedule (not in the paper)."""
    straight_through: bool = False
    """Hand one-hot codes down the ladder while training, with the gradient of the relaxed ones."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_vocabulary(self.vocabulary)
        check_choice("prior", self.prior, ("responsibilities", "direct"))
        check_choice("variances", self.variances, ("learned", "unit"))
        check_positive(temperature_start=self.temperature_start, temperature_end=self.temperature_end)
        if self.embedding_width < 1:
            raise ValueError(f"embedding_width must be at least 1, got {self.embedding_width}")

    @property
    def bits(self) -> float:
        """Bits that the codes of one example can carry."""
        return code_bits(self.grid_tokens, [self.vocabulary] * len(self.grid_tokens))


class RRVQ(HierarchicalAutoencoder):
    """Hierarchical autoencoder with categorical latents; see :class:`RRVQConfig`."""

    config: RRVQConfig

    def __init__(self, config: RRVQConfig, domain: Domain) -> None:
        width = config.embedding_width
        super().__init__(
            config,
            domain,
            vocabulary=config.vocabulary,
            latent=width,
            posterior=width,
            prior=width if config.prior == "responsibilities" else config.vocabulary,
        )
        starts = [torch.randn(config.vocabulary, width) * CODE_LENGTH / math.sqrt(width) for _ in range(self.layers)]
        self.means = nn.ParameterList(nn.Parameter(start) for start in starts)
        self.log_variances = (
            nn.ParameterList(nn.Parameter(torch.zeros_like(start)) for start in starts)
            if config.variances == "learned"
            else None
        )

    def responsibilities(
        self, layer: int, embeddings: Float[Tensor, "batch token width"]
    ) -> Float[Tensor, "batch token code"]:
        """Logits of the codes of one layer for embeddings."""
        log_variances = None if self.log_variances is None else self.log_variances[layer]
        return responsibility_logits(embeddings, self.means[layer], log_variances)

    def prior_logits(self, layer: int, numbers: Tensor | None) -> Float[Tensor, "batch token code"] | None:
        """Logits of p of one layer from what the ladder gave; None is uniform."""
        if numbers is None or self.config.prior == "direct":
            return numbers
        return self.responsibilities(layer, numbers)

    def divergence(self, layer: int, posterior: Tensor, prior: Tensor | None) -> Float[Tensor, " batch"]:
        """KL [nat] of the categoricals of one layer, in closed form."""
        return categorical_kl(self.responsibilities(layer, posterior), self.prior_logits(layer, prior))

    def relaxed(
        self, layer: int, posterior: Tensor, prior: Tensor | None, generator: torch.Generator, *, progress: float
    ) -> tuple[Float[Tensor, "batch token width"], Float[Tensor, " batch"]]:
        """Average the codes under a Gumbel-softmax draw; the KL is that of the categoricals, not of the relaxation."""
        logits = self.responsibilities(layer, posterior)
        weights = gumbel_softmax(
            logits,
            gumbel_noise(logits, generator),
            temperature=self.temperature(progress),
            hard=self.config.straight_through,
        )
        return mixed_codes(weights, self.means[layer]), categorical_kl(logits, self.prior_logits(layer, prior))

    def temperature(self, progress: float) -> float:
        """Temperature of the relaxation at step / schedule_steps."""
        return exponential_schedule(self.config.temperature_start, self.config.temperature_end, progress)

    def annealed(self, progress: float) -> dict[str, float]:
        """The temperature."""
        return {"temperature": self.temperature(progress)}

    @torch.no_grad()
    def encode(self, x: Float[Tensor, "batch item feature"], generator: torch.Generator) -> Codes:
        """Draw hard codes layer by layer, each given those above it."""
        indices: list[Tensor] = []
        log_prob, log_prior = [], []

        def choose(layer: int, posterior: Tensor | None, prior: Tensor | None) -> Tensor:
            assert posterior is not None
            drawn, log_q = _draw(self.responsibilities(layer, posterior), generator)
            indices.append(drawn)
            log_prob.append(log_q)
            logits = self.prior_logits(layer, prior)
            uniform = torch.full_like(log_q, -drawn.shape[1] * math.log(self.vocabulary))
            log_prior.append(uniform if logits is None else gathered_log_prob(logits, drawn))
            return self.means[layer][drawn]

        self.walk(self.ladder.bottom_up(x), len(x), choose)
        codes = torch.cat(indices, dim=1)
        return Codes(
            indices=codes,
            embeddings=self.embed(codes),
            log_prob=torch.stack(log_prob).sum(dim=0),
            log_prior=torch.stack(log_prior).sum(dim=0),
        )

    def embed(self, indices: Int[Tensor, "*batch token"]) -> Float[Tensor, "*batch token width"]:
        """Look every token up among the means of its layer."""
        parts = self.by_layer(indices.reshape(-1, indices.shape[-1]))
        embedded = [means[part] for means, part in zip(self.means, parts)]
        return torch.cat(embedded[::-1], dim=1).view(*indices.shape, -1)

    @property
    def codebook(self) -> Float[Tensor, "code width"] | None:
        """Means of the codes; None with more than one layer, since each has its own."""
        return self.means[0] if self.layers == 1 else None

    def kl_to_prior(self, x: Float[Tensor, "batch item feature"], codes: Codes) -> Float[Tensor, " batch"]:
        """KL [nat] of every layer in closed form, given the codes above it."""
        assert codes.indices is not None
        parts = self.by_layer(codes.indices)
        divergences = []

        def choose(layer: int, posterior: Tensor | None, prior: Tensor | None) -> Tensor:
            assert posterior is not None
            divergences.append(self.divergence(layer, posterior, prior))
            return self.means[layer][parts[layer]]

        self.walk(self.ladder.bottom_up(x), len(x), choose)
        return torch.stack(divergences).sum(dim=0)

    @torch.no_grad()
    def sample_prior(self, count: int, generator: torch.Generator) -> Codes:
        """Draw codes from p by one pass down the ladder (ancestral sampling)."""
        indices, log_prior = [], []

        def choose(layer: int, posterior: Tensor | None, prior: Tensor | None) -> Tensor:
            logits = self.prior_logits(layer, prior)
            if logits is None:
                logits = self.means[layer].new_zeros(count, self.config.grid_tokens[layer], self.vocabulary)
            drawn, log_p = _draw(logits, generator)
            indices.append(drawn)
            log_prior.append(log_p)
            return self.means[layer][drawn]

        self.ancestors(count, choose)
        codes = torch.cat(indices, dim=1)
        return Codes(indices=codes, embeddings=self.embed(codes), log_prior=torch.stack(log_prior).sum(dim=0))

    def after_update(self) -> None:
        """Keep the variances within their bounds."""
        with torch.no_grad():
            for log_variances in self.log_variances or ():
                log_variances.clamp_(-LOG_VARIANCE_LIMIT, LOG_VARIANCE_LIMIT)


def _draw(
    logits: Float[Tensor, "batch token code"], generator: torch.Generator
) -> tuple[Int[Tensor, "batch token"], Float[Tensor, " batch"]]:
    """Draw one code per token; also their log-probability [nat], summed over tokens."""
    uniform = torch.rand(logits.shape[:2], generator=generator, device=logits.device)
    indices, log_q = inverse_cdf_sample(logits.flatten(0, 1), uniform.flatten())
    return indices.view(logits.shape[:2]), log_q.view(logits.shape[:2]).sum(dim=1)


def paper() -> Preset[RRVQConfig]:
    """The paper's L = 5 model carried over to motion (our adaptation: the paper has images only).

    Five 1-D grids of 64 to 4 tokens (992 bits), 4 residual blocks in every network and 128-wide codebooks of 256 codes,
    AdaMax as in the paper, which leaves the number of channels of the L = 5 backbones, the temperatures and the free
    bits open. The weights of the KL and the number of steps are those of the other methods on motion.
    """
    method = RRVQConfig(ladder=LadderConfig(ladder_blocks=4), beta_start=2.0, beta_end=0.01, free_nats=0.01)
    optimisation = OptimisationConfig(
        batch=64,
        optimiser="adamax",
        learning_rate=8e-4,
        weight_decay=0.0,
        adaptive_clipping=None,
        validation_steps=1000,
        plateau_factor=0.8,
        plateau_patience=20,
        plateau_floor=5e-5,
    )
    return Preset(method=method, optimisation=optimisation)


def small() -> Preset[RRVQConfig]:
    """Sized for two CPU cores: at most one second per step.

    Departures from the paper, each for a run of minutes: smaller networks, Adam at a higher rate with clipping (AdaMax
    is slower at first), weights of the KL for motion.
    """
    method = RRVQConfig(embedding_width=64, ladder=LadderConfig(width=64, blocks=2), beta_start=0.1, beta_end=0.01)
    optimisation = OptimisationConfig(
        batch=64,
        steps=5500,
        hz=50.0,
        optimiser="adam",
        learning_rate=5e-3,
        learning_rate_end=1e-4,
        weight_decay=0.0,
    )
    return Preset(method=method, optimisation=optimisation)


METHODS = (
    Method(
        name="rrvq",
        summary="hierarchy of codes given by responsibilities of learned mixtures",
        config_class=RRVQConfig,
        build=RRVQ,
        presets={"paper": paper, "small": small},
    ),
)
