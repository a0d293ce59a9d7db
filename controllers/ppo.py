"""Stable-baselines3's PPO with a learning rate steered by the KL divergence, own generators and less overhead.

Under torchrun every rank has worlds of its own; gradients, the normaliser's statistics, the KL divergence and the
failure rates of the start bins are averaged over ranks, so that all ranks hold the same policy to the bit.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence

import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Float
from stable_baselines3 import PPO
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import Schedule
from torch import Tensor
from torch.distributions import Normal

from motionlex.controllers.low_level_policy import LowLevelPolicy
from motionlex.controllers.policy_average import PolicyAverage
from motionlex.controllers.ppo_config import PPOConfig, adapted_rate
from motionlex.envs.batched import BatchedTracking
from motionlex.motion_vae import distributed

EXACT_BELOW = 0.25
"""Standard deviation of the actions (harmonic mean of squares) below which the actor is float32 in the update."""


class TrackingActorCritic(ActorCriticPolicy):
    """Gives a :class:`LowLevelPolicy` the interface that stable-baselines3's PPO calls."""

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        lr_schedule: Schedule,
        *,
        network: LowLevelPolicy,
        generator: torch.Generator,
        use_sde: bool = False,
    ) -> None:
        """Wrap a network.

        Args:
            observation_space: Of the environment.
            action_space: Of the environment.
            lr_schedule: Unused; PPO's subclass below owns the rates.
            network: Actor, critic and normaliser.
            generator: Source of exploration noise.
            use_sde: Refused by the base class's defaults; always False.
        """
        self._parts = (network, generator)  # a tuple: modules cannot be assigned before the base class is set up
        super().__init__(observation_space, action_space, lr_schedule, net_arch=[], use_sde=use_sde)
        self.exact = True
        """Whether the actor's means are float32 under autocast too: those that drew the actions are."""

    def _build(self, lr_schedule: Schedule) -> None:
        self.network, self._generator = self._parts
        actor = [*self.network.actor.parameters(), self.network.log_std]
        if self.network.codes is not None:
            actor += list(self.network.codes.parameters())
        critic = list(self.network.critic.parameters())
        if self.network.critic_codes is not None:
            critic += list(self.network.critic_codes.parameters())
        self.groups = (actor, critic)
        self.optimizer = torch.optim.Adam([{"params": actor}, {"params": critic}], lr=lr_schedule(1.0), eps=1e-5)

    def _normal(self, obs: Tensor) -> Normal:
        return Normal(self.network.mean(obs), self.network.log_std.exp(), validate_args=False)

    def forward(self, obs: Tensor, deterministic: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Return actions, values (batch, 1) and log probabilities."""
        distribution = self._normal(obs)
        actions = distribution.mean
        if not deterministic:
            noise = torch.randn(actions.shape, generator=self._generator, device=self._generator.device)
            actions = actions + distribution.stddev * noise.to(actions.device)
        return actions, self.network.value(obs)[:, None], distribution.log_prob(actions).sum(1)

    def evaluate_actions(self, obs: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return values (batch, 1), log probabilities and entropies of given actions; see :attr:`exact`."""
        with torch.autocast(obs.device.type, enabled=False) if self.exact else contextlib.nullcontext():
            distribution = self._normal(obs)
        return self.network.value(obs)[:, None], distribution.log_prob(actions).sum(1), distribution.entropy().sum(1)

    def predict_values(self, obs: Tensor) -> Tensor:
        """Return values (batch, 1)."""
        return self.network.value(obs)[:, None]

    def _predict(self, observation: Tensor, deterministic: bool = False) -> Tensor:
        return self.forward(observation, deterministic)[0]


class TrackingPPO(PPO):
    """PPO whose ``train`` steers the actor's rate and clips actor and critic gradients apart."""

    policy: TrackingActorCritic

    def __init__(
        self,
        env: BatchedTracking,
        network: LowLevelPolicy,
        config: PPOConfig,
        generator: torch.Generator,
        device: str,
        *,
        critic_first: int = 0,
    ) -> None:
        """Wire environment, network and buffer.

        Args:
            env: Batched environment: this rank's share of the worlds.
            network: Policy to train, in place.
            config: Hyper-parameters.
            generator: Source of exploration noise and of mini-batch order.
            device: Torch device.
            critic_first: Updates at the beginning in which the actor rests, for actors that were trained before.
        """
        self.critic_first = critic_first
        self.recipe, self.generator = config, generator
        self.actor_rate = config.actor_rate
        self.statistics: dict[str, float] = {}
        self.ranks = distributed.world_size()
        self.average = PolicyAverage(network, config.average)
        super().__init__(
            TrackingActorCritic,
            env,
            learning_rate=config.actor_rate,
            n_steps=config.horizon,
            batch_size=min(config.minibatch_of(self.ranks), env.num_envs * config.horizon),
            n_epochs=config.epochs,
            gamma=config.gamma,
            gae_lambda=config.gae_lambda,
            clip_range=config.clip,
            normalize_advantage=False,  # done below; SB3 would refuse mini-batches of one step
            ent_coef=config.entropy,
            max_grad_norm=config.max_gradient,
            policy_kwargs={"network": network, "generator": generator},
            seed=None,
            device=device,
        )

    @property
    def steps(self) -> int:
        """Control steps so far, over the robots of all ranks."""
        return self.num_timesteps * self.ranks

    def train(self) -> None:
        """Update the policy on the collected steps, then fold them into the normaliser."""
        buffer, recipe, sampler = self.rollout_buffer, self.recipe, self.env.sampler
        cooled = recipe.cooled(self._current_progress_remaining)
        # Before anything is decided by it: ranks that decide differently hold different policies from then on.
        sampler.failure = distributed.synchronised_sum(torch.from_numpy(sampler.failure)).numpy() / self.ranks
        target_kl = recipe.kl_target(sampler.failing_share(self.env.task.config.episode_s), cooled)
        furthest = 4.0 * target_kl
        std_bounds = recipe.std_bounds(cooled)
        self.policy.set_training_mode(True)
        self.policy.exact = float((-2.0 * self.policy.network.log_std.detach()).exp().mean()) > EXACT_BELOW**-2
        observations = self._flat(buffer.observations)
        columns = [self._flat(x) for x in (buffer.actions, buffer.log_probs, buffer.advantages, buffer.returns)]
        told = np.zeros(4)
        for _ in range(recipe.epochs):
            told = self._one_pass(observations, columns, furthest)
            if told[0] > furthest:
                break
        self._n_updates += recipe.epochs
        if self._n_updates > self.critic_first * recipe.epochs:
            self.actor_rate = adapted_rate(self.actor_rate, told[0], target_kl, recipe.actor_rates(cooled))
        with torch.no_grad():  # after the KL was measured, which it is no part of
            self.policy.network.log_std.clamp_(*map(math.log, std_bounds))
        self.policy.network.update_normaliser(observations)
        self.average.update()
        residual = buffer.returns - buffer.values
        self.statistics = {
            "kl_nats": float(told[0]),
            "policy_loss": float(told[1]),
            "value_loss": float(told[2]),
            "clip_fraction": float(told[3]),
            "explained_variance": float(1.0 - residual.var() / max(float(buffer.returns.var()), 1e-12)),
            "actor_rate": self.actor_rate,
            "action_std": float(self.policy.network.log_std.detach().exp().mean()),
        }

    def _one_pass(self, observations: Tensor, columns: Sequence[Tensor], furthest: float) -> Float[np.ndarray, " 4"]:
        """Go through the collected steps once, in a new order, or until the policy has left the one that took them.

        Returns:
            What :meth:`_update` tells, as a mean over mini-batches, or of the first one whose divergence exceeds
            ``furthest`` [nat] and which therefore moves nothing.
        """
        order = torch.randperm(len(observations), generator=self.generator, device=self.generator.device)
        told = []
        for rows in order.to(self.device).split(self.batch_size):
            told.append(self._update(observations[rows], *(column[rows] for column in columns), furthest=furthest))
            if told[-1][0] > furthest:
                return told[-1]
        return np.mean(told, axis=0)

    def _flat(self, array: Float[np.ndarray, "step env *rest"]) -> Tensor:
        return torch.as_tensor(array.reshape(-1, *array.shape[2:]), dtype=torch.float32, device=self.device)

    def _update(
        self,
        observations: Tensor,
        actions: Tensor,
        old_log_prob: Tensor,
        advantages: Tensor,
        returns: Tensor,
        *,
        furthest: float,
    ) -> Float[np.ndarray, " 4"]:
        """Take one gradient step, unless the divergence exceeds ``furthest`` [nat] already.

        Returns:
            Divergence (KL) [nat], policy loss, value loss, share of clipped ratios: before the step, means over ranks.
        """
        recipe, optimizer = self.recipe, self.policy.optimizer
        resting = self._n_updates < self.critic_first * recipe.epochs
        with torch.autocast(self.device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
            values, log_prob, entropy = self.policy.evaluate_actions(observations, actions)
        advantages = (advantages - advantages.mean()) / (
            advantages.std(unbiased=False) + 1e-8
        )  # of one step: 0, not NaN
        log_ratio = log_prob - old_log_prob
        ratio = log_ratio.exp()
        clipped = ratio.clamp(1.0 - recipe.clip, 1.0 + recipe.clip)
        policy_loss = -torch.min(advantages * ratio, advantages * clipped).mean()
        value_loss = (returns - values[:, 0]).square().mean()
        with torch.no_grad():
            kl = (ratio - 1.0 - log_ratio).mean()
            share = ((ratio - 1.0).abs() > recipe.clip).float().mean()
            told = distributed.synchronised_sum(torch.stack((kl, policy_loss, value_loss, share)).cpu().double())
        told = (told / self.ranks).numpy()
        if told[0] > furthest:
            return told
        optimizer.zero_grad(set_to_none=True)
        (policy_loss - recipe.entropy * entropy.mean() + value_loss).backward()
        distributed.average_gradients(parameter for group in self.policy.groups for parameter in group)
        for group, rate, parameters in zip(
            optimizer.param_groups,
            (0.0 if resting else self.actor_rate, recipe.critic_rate),
            self.policy.groups,
            strict=True,
        ):
            group["lr"] = rate
            torch.nn.utils.clip_grad_norm_(parameters, recipe.max_gradient)
        optimizer.step()
        return told
