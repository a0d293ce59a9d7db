"""REINFORCE: the score-function gradient of the ELBO, as in the tutorial on discrete VAEs.

The KL to the uniform prior has an exact gradient; the expected reconstruction gets an unbiased one from samples, whose
variance a baseline brings down.
"""

from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from motionlex.motion_vae.autoencoders import PosteriorAutoencoder, PosteriorConfig
from motionlex.motion_vae.contract import LossTerms, Method, OptimisationConfig, Preset
from motionlex.motion_vae.distributed import synchronised_mean
from motionlex.motion_vae.domain import Domain, NetworkConfig
from motionlex.motion_vae.estimators import exponential_schedule
from motionlex.motion_vae.losses import categorical_kl_to_uniform, gathered_log_prob
from motionlex.motion_vae.metrics import code_perplexity
from motionlex.motion_vae.options import check_choice
from motionlex.motion_vae.policy_search import leave_one_out_advantage, score_function_loss
from motionlex.motion_vae.posterior import Factorisation

Baseline = Literal["constant", "moving_average", "leave_one_out"]
BASELINES: tuple[Baseline, ...] = ("constant", "moving_average", "leave_one_out")


@dataclass(frozen=True, kw_only=True)
class ReinforceConfig(PosteriorConfig):
    """Score-function gradient of the ELBO; the defaults are the tutorial's, except for the sizes."""

    factorisation: Factorisation = "factorised"
    """factorised (the tutorial) or autoregressive."""
    networks: NetworkConfig = field(default_factory=lambda: NetworkConfig(layers=6))
    """Sizes of the networks."""
    beta_start: float = 1.0
    """Weight of the KL at the first step."""
    beta_end: float = 1.0
    """Weight of the KL at the end of the schedule, and in the reported beta-ELBO."""
    samples: int = 1
    """K: code sequences per example."""
    baseline: Baseline = "constant"
    """What is subtracted from returns: a constant, the moving average of all returns before the batch, or the mean of
    the other samples of the same example (needs samples >= 2)."""
    constant_nats: float = -125.0
    """The constant baseline [nat of log p(x|z)]; the tutorial adds 125 to minus the cross-entropy, which is this."""
    baseline_decay: float = 0.99
    """Share of the old moving average that is kept at each step."""
    one_hot: bool = False
    """Show the decoder the one-hot codes themselves (a frozen identity codebook; the width must be the vocabulary)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("baseline", self.baseline, BASELINES)
        smallest = 2 if self.baseline == "leave_one_out" else 1
        if self.samples < smallest:
            raise ValueError(f"samples must be at least {smallest} for baseline={self.baseline}, got {self.samples}")
        if not 0.0 < self.baseline_decay < 1.0:
            raise ValueError(f"baseline_decay must be in (0, 1), got {self.baseline_decay}")
        if not abs(self.constant_nats) < float("inf"):
            raise ValueError(f"constant_nats must be finite, got {self.constant_nats}")
        if self.one_hot and self.networks.width != self.vocabulary:
            raise ValueError(
                f"one_hot needs width = vocabulary, got width={self.networks.width} and vocabulary={self.vocabulary}"
            )


class ReinforceAutoencoder(PosteriorAutoencoder):
    """Categorical VAE trained by the score function."""

    def __init__(self, config: ReinforceConfig, domain: Domain) -> None:
        super().__init__(config, domain)
        self.config = config
        self._seen: list[Tensor] = []
        if config.one_hot:
            with torch.no_grad():
                self.codebook.copy_(torch.eye(config.vocabulary))
            self.codebook.requires_grad_(False)
        if config.baseline == "moving_average":
            # Sums of (1 - decay) decay^age times the return, and times one: their ratio has no start-up bias.
            self.register_buffer("moving_return", torch.zeros(()))
            self.register_buffer("moving_weight", torch.zeros(()))

    def loss(self, x: Float[Tensor, "batch item feature"], generator: torch.Generator, *, progress: float) -> LossTerms:
        r"""Loss with the gradients of equations 84 (encoder) and 85 (decoder) of the tutorial.

        .. math:: -\frac{1}{K} \sum_k (R_k - b) \log q(z_k|x) + \beta KL(q \| \text{uniform})
                  - \frac{1}{K} \sum_k \log p(x|z_k), \quad R_k = \log p(x|z_k)

        For a factorised q the KL is exact. For an autoregressive q it is that of the conditionals along each path;
        since early codes choose which conditionals follow, R_k is then log p(x|z_k) - beta KL_k.

        Args:
            x: Data.
            generator: Source of the samples.
            progress: step / schedule_steps; sets beta.

        Returns:
            The three terms, with diagnostics; ``elbo_nats`` is equation 86 (weight 1 of the KL).
        Source: Tutorial, equations 84 to 86.
        Departure: any likelihood, several samples, baselines and beta; the tutorial has one, a constant and 1.
        """
        beta = exponential_schedule(self.config.beta_start, self.config.beta_end, progress)
        memory = self.recognition.memory(x)
        indices, _ = self.recognition.sample(memory.detach(), self.config.samples, generator)
        reconstruction = self.generative(indices)
        log_p = reconstruction.log_prob(x.unsqueeze(1))
        log_q, kl = self._log_q_and_kl(indices, memory)
        returns = log_p.detach()
        if self.config.factorisation == "autoregressive":
            returns = returns - beta * kl.detach()
        terms = {
            "score": score_function_loss(log_q, self._advantage(returns)),
            "weighted_kl_nats": beta * kl.mean(),
            "negative_log_p_nats": -log_p.mean(),
        }
        with torch.no_grad():
            metrics = {
                "beta": torch.tensor(beta),
                "kl_nats": kl.mean(),
                "log_p_nats": log_p.mean(),
                "elbo_nats": log_p.mean() - kl.mean(),
                "mean_squared_error": (reconstruction.mean - x.unsqueeze(1)).square().mean(),
                "batch_perplexity": code_perplexity(indices, self.vocabulary),
            }
        total = torch.stack(list(terms.values())).sum()
        return LossTerms(total=total, terms={k: v.detach() for k, v in terms.items()}, metrics=metrics)

    def _log_q_and_kl(
        self, indices: Int[Tensor, "batch sample token"], memory: Float[Tensor, "batch token width"]
    ) -> tuple[Float[Tensor, "batch sample"], Float[Tensor, "batch path"]]:
        """Log q(z|x) and the KL [nat] along every path; one column for a factorised q, whose KL is the same on all."""
        if self.config.factorisation == "factorised":
            kl = categorical_kl_to_uniform(self.recognition.logits(indices[:, :1], memory))
            return self.recognition.log_prob(indices, memory), kl
        logits = self.recognition.logits(indices, memory)
        return gathered_log_prob(logits, indices), categorical_kl_to_uniform(logits)

    def _advantage(self, returns: Float[Tensor, "batch sample"]) -> Float[Tensor, "batch sample"]:
        """Returns minus the chosen baseline [nat]; every choice leaves the gradient unbiased."""
        if self.config.baseline == "leave_one_out":
            return leave_one_out_advantage(returns)
        if self.config.baseline == "constant":
            return returns - self.config.constant_nats
        mean = synchronised_mean(returns.mean())
        if torch.is_grad_enabled():  # an evaluation of the loss is no step
            self._seen.append(mean)
        # The very first batch has only its own mean to go by, which shrinks that one gradient by 1/(BK).
        average = self.moving_return / self.moving_weight.clamp_min(1.0 - self.config.baseline_decay)
        return returns - torch.where(self.moving_weight > 0.0, average, mean)

    def after_update(self) -> None:
        """Let the moving average follow the returns of the batch (of all its parts)."""
        if not self._seen:
            return
        mean = torch.stack(self._seen).mean()
        self._seen = []
        decay = self.config.baseline_decay
        self.moving_return.mul_(decay).add_(mean, alpha=1.0 - decay)
        self.moving_weight.mul_(decay).add_(1.0 - decay)


def paper() -> Preset[ReinforceConfig]:
    """Sizes, bits, KL weights and samples of DAPS-NA on LAFAN; the tutorial's own MNIST recipe is one for images.

    Departure: a leave-one-out baseline. The tutorial's constant of 125 nats belongs to its cross-entropies; returns of
    LAFAN segments are of the order of -10^4.
    """
    method = ReinforceConfig(samples=16, baseline="leave_one_out", beta_start=1.0, beta_end=0.01)
    return Preset(method=method, optimisation=OptimisationConfig())


def small() -> Preset[ReinforceConfig]:
    """Sized for two CPU cores: at most one second per step."""
    method = ReinforceConfig(
        vocabulary=256,
        networks=NetworkConfig(width=64, layers=4),
        samples=4,
        baseline="leave_one_out",
        beta_start=0.1,
        beta_end=0.01,
    )
    optimisation = OptimisationConfig(batch=64, steps=5500, hz=50.0, learning_rate=1e-3, learning_rate_end=5e-5)
    return Preset(method=method, optimisation=optimisation)


METHODS = (
    Method(
        name="reinforce",
        summary="score-function gradient of the ELBO with a baseline",
        config_class=ReinforceConfig,
        build=ReinforceAutoencoder,
        presets={"paper": paper, "small": small},
    ),
)
