"""PPO: several clipped updates of the encoder on code sequences that it sampled before the first of them.

A code sequence is one action. Its reward is the log-likelihood with the KL to the prior paid in it,
R = log p(x|z) - beta (log q_old(z|x) - log p(z)), so that its expectation is the beta-ELBO.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from motionlex.motion_vae.autoencoders import PosteriorAutoencoder, PosteriorConfig
from motionlex.motion_vae.contract import LossTerms, Method, OptimisationConfig, Preset
from motionlex.motion_vae.domain import Domain, NetworkConfig
from motionlex.motion_vae.estimators import exponential_schedule
from motionlex.motion_vae.metrics import code_perplexity
from motionlex.motion_vae.policy_search import (
    approximate_kl,
    clipped_surrogate,
    leave_one_out_advantage,
    standardised,
)


@dataclass(frozen=True, kw_only=True)
class PPOConfig(PosteriorConfig):
    """Proximal policy optimisation of an encoder."""

    samples: int = 16
    """K: code sequences per example; their mean return is the baseline."""
    epochs: int = 4
    """Updates of the encoder per batch; with one, every ratio is 1 and PPO is the plain policy gradient."""
    clip: float = 0.2
    """Largest change of the probability of a sequence that still has a gradient, as a share."""
    standardise: bool = True
    """Divide advantages by their root mean square over the batch."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.samples < 2:
            raise ValueError(f"samples must be at least 2 (their mean is the baseline), got {self.samples}")
        if self.epochs < 1:
            raise ValueError(f"epochs must be at least 1, got {self.epochs}")
        if not 0.0 < self.clip < 1.0:
            raise ValueError(f"clip must be in (0, 1), got {self.clip}")


class PPOAutoencoder(PosteriorAutoencoder):
    """Categorical VAE whose encoder is trained by proximal policy optimisation."""

    def __init__(self, config: PPOConfig, domain: Domain) -> None:
        super().__init__(config, domain)
        self.config = config

    def loss(self, x: Float[Tensor, "batch item feature"], generator: torch.Generator, *, progress: float) -> LossTerms:
        """Evaluate the objective of the first epoch, whose gradient is the plain policy gradient."""
        return next(self.objectives(x, generator, progress=progress))

    def objectives(
        self, x: Float[Tensor, "batch item feature"], generator: torch.Generator, *, progress: float
    ) -> Iterator[LossTerms]:
        r"""Sample once, then yield one clipped objective per epoch.

        .. math:: L = -\frac{1}{BK} \sum_{x,k} \min(r_k A_k, \mathrm{clip}(r_k, 1 \pm \epsilon) A_k), \quad
                  r_k = \frac{q_\theta(z_k|x)}{q_{old}(z_k|x)}

        The decoder is trained in the first epoch only, on the same samples: as many updates as with other methods.

        Args:
            x: Data.
            generator: Source of the samples, used before the first objective only.
            progress: step / schedule_steps; sets beta.

        Yields:
            Encoder (and, at first, decoder) loss, with diagnostics of this epoch.
        Source: Schulman et al. 2017, equation 7; as a baseline in DAPS, section 5.
        Departure: Public code of the DAPS authors takes one update per sample of a policy that is one update old, so
            that hardly a ratio leaves the clipping interval; has a learned critic and a penalty on KL(old || new); and
            differentiates the prior's KL along the sampled path, which for an autoregressive q misses that early codes
            choose the later conditionals. Here: several epochs, the mean of the other samples as baseline, clipping
            alone, and the KL inside the reward.
        """
        config = self.config
        beta = exponential_schedule(config.beta_start, config.beta_end, progress)
        memory = self.recognition.memory(x)
        indices, _ = self.recognition.sample(memory.detach(), config.samples, generator)
        reconstruction = self.generative(indices)
        log_p = reconstruction.log_prob(x.unsqueeze(1))
        # Teacher forcing gives the old log q too (sampling agrees to rounding), so that first ratios are exactly 1.
        log_q = self.recognition.log_prob(indices, memory)
        old_log_q = log_q.detach()
        # log p(z) is constant under the uniform prior: the baseline removes it.
        advantage = leave_one_out_advantage(log_p.detach() - beta * old_log_q)
        if config.standardise:
            advantage = standardised(advantage)
        with torch.no_grad():
            rollout = {
                "beta": torch.tensor(beta),
                "log_p_nats": log_p.mean(),
                "log_q_nats": log_q.mean(),
                "log_p_spread_nats": log_p.std(dim=1).mean(),
                "mean_squared_error": (reconstruction.mean - x.unsqueeze(1)).square().mean(),
                "batch_perplexity": code_perplexity(indices, self.vocabulary),
            }
        yield self._epoch(log_q - old_log_q, advantage, rollout, decoder=-log_p.mean())
        for _ in range(1, config.epochs):
            log_q = self.recognition.log_prob(indices, self.recognition.memory(x))
            yield self._epoch(log_q - old_log_q, advantage, rollout)

    def _epoch(
        self,
        log_ratio: Float[Tensor, "batch sample"],
        advantage: Float[Tensor, "batch sample"],
        rollout: dict[str, Tensor],
        decoder: Float[Tensor, ""] | None = None,
    ) -> LossTerms:
        """Assemble what one epoch minimises."""
        terms = {"encoder": -clipped_surrogate(log_ratio, advantage, clip=self.config.clip).mean()}
        if decoder is not None:
            terms["decoder"] = decoder
        with torch.no_grad():
            metrics = {
                **rollout,
                "clip_fraction": (torch.expm1(log_ratio).abs() > self.config.clip).to(log_ratio.dtype).mean(),
                "approximate_kl_nats": approximate_kl(log_ratio),
            }
        total = torch.stack(list(terms.values())).sum()
        return LossTerms(total=total, terms={k: v.detach() for k, v in terms.items()}, metrics=metrics)


def paper() -> Preset[PPOConfig]:
    """Sizes of the LAFAN column of the DAPS paper, which runs PPO on images only; clip 0.2."""
    return Preset(method=PPOConfig(), optimisation=OptimisationConfig())


def small() -> Preset[PPOConfig]:
    """Sized for two CPU cores: about one second per step, with four updates in it."""
    method = PPOConfig(vocabulary=256, networks=NetworkConfig(width=64), samples=4, beta_start=0.1, aligned_memory=True)
    optimisation = OptimisationConfig(batch=64, steps=5500, hz=50.0, learning_rate=1e-3, learning_rate_end=5e-5)
    return Preset(method=method, optimisation=optimisation)


METHODS = (
    Method(
        name="ppo",
        summary="several clipped updates per sample of the encoder",
        config_class=PPOConfig,
        build=PPOAutoencoder,
        presets={"paper": paper, "small": small},
    ),
)
