"""PPO of rsl_rl on MuJoCo Warp with our policy: collecting, updating, and what a resume needs.

rsl_rl's runner is not used: it asks the device for numbers after every step, and neither its files nor its resume are
ours. Its algorithm, storage and multi-GPU reductions are.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Literal

import torch
from rsl_rl.algorithms import PPO
from rsl_rl.storage import RolloutStorage
from tensordict import TensorDict

from motionlex.controllers.low_level_policy import LowLevelPolicy
from motionlex.controllers.policy_average import PolicyAverage
from motionlex.controllers.ppo_config import PPOConfig, Precision
from motionlex.controllers.warp_models import WarpActor, WarpCritic, critic_view
from motionlex.data.errors import UserError
from motionlex.envs.warp import WarpTracking
from motionlex.motion_vae import distributed
from motionlex.motion_vae.precision import float32_arithmetic


class BoundedPPO(PPO):
    """rsl_rl's PPO whose adaptive learning rate stays inside the bounds of our recipe.

    rsl_rl itself keeps it within 1e-5 and 1e-2, in a cool-down too. One rate serves actor and critic, adapted after
    each mini-batch; ``PPOConfig.critic_rate`` has no place here.
    """

    rate_bounds: tuple[float, float] = (0.0, math.inf)

    @property
    def learning_rate(self) -> float:
        """Rate of the next gradient step."""
        return self._rate

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        low, high = self.rate_bounds
        self._rate = min(max(value, low), high)


def update_arithmetic(precision: Precision, device: torch.device) -> Literal["tf32", "float32"]:
    """Return the arithmetic of what is float32 in the update: TF32 on a GPU, unless float32 was asked for."""
    return "float32" if precision == "float32" or device.type != "cuda" else "tf32"


class WarpTrainer:
    """Trains a policy in place, on one GPU or as one rank of several."""

    def __init__(self, env: WarpTracking, network: LowLevelPolicy, config: PPOConfig, *, seed: int) -> None:
        """Wire environment, network and buffer.

        Args:
            env: This rank's share of the worlds.
            network: Policy to train.
            config: Hyper-parameters; worlds and mini-batches are those of all ranks together.
            seed: This rank's seed of exploration and of the order of mini-batches.

        Raises:
            UserError: If a mini-batch would hold less than two steps, whose advantages have no spread.
        """
        self.env, self.recipe, self.device = env, config, env.device
        self.ranks = distributed.world_size()
        self.statistics: dict[str, float] = {}
        self.updates = 0
        self._seed, self._random_state = seed, None
        network.to(self.device)
        self.policy = WarpActor(network)
        self.average = PolicyAverage(network, config.average)
        observations = env.get_observations()
        device = str(self.device)
        storage = RolloutStorage("rl", env.num_envs, config.horizon, observations, [env.num_actions], device)
        ranks = {"global_rank": distributed.rank(), "local_rank": self.device.index or 0, "world_size": self.ranks}
        rows = env.num_envs * config.horizon
        if min(rows, config.minibatch_of(self.ranks)) < 2:
            raise UserError(
                f"a mini-batch of {config.minibatch} of {rows * self.ranks} steps leaves less than two to each of "
                f"{self.ranks} process(es): give larger --set minibatch, --worlds or --set horizon"
            )
        self.algorithm = BoundedPPO(
            self.policy,
            WarpCritic(network),
            storage,
            num_learning_epochs=config.epochs,
            num_mini_batches=max(1, rows * self.ranks // config.minibatch),
            clip_param=config.clip,
            gamma=config.gamma,
            lam=config.gae_lambda,
            value_loss_coef=1.0,
            entropy_coef=config.entropy,
            learning_rate=config.actor_rate,
            max_grad_norm=config.max_gradient,
            use_clipped_value_loss=False,
            schedule="adaptive",
            desired_kl=config.target_kl,
            normalize_advantage_per_mini_batch=True,
            use_mixed_precision=config.precision == "bf16",
            device=device,
            multi_gpu_cfg=ranks if self.ranks > 1 else None,
        )
        self.algorithm.rate_bounds = config.actor_rates(0.0)

    @property
    def steps(self) -> int:
        """Control steps so far, over the robots of all ranks."""
        return self.updates * self.recipe.horizon * self.env.num_envs * self.ranks

    def start_randomness(self) -> None:
        """Set torch's global generators, which rsl_rl draws from, for the first time or as a checkpoint left them.

        To be called inside ``torch.random.fork_rng``, so that nobody else notices.
        """
        if self._random_state is None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self._seed)
                state = torch.get_rng_state()
            torch.set_rng_state(state)
            if self.device.type == "cuda":
                fresh = torch.Generator(device=self.device).manual_seed(self._seed)
                torch.cuda.set_rng_state(fresh.get_state(), self.device)
            return
        torch.set_rng_state(self._random_state["cpu"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(self._random_state["cuda"], self.device)

    def improve(self, total: int) -> None:
        """Collect one batch and update the policy on it; the run is to have ``total`` control steps."""
        begin = time.perf_counter()
        done = self.steps + self.recipe.horizon * self.env.num_envs * self.ranks
        cooled = self.recipe.cooled(1.0 - done / total)
        self.algorithm.desired_kl = self.recipe.kl_target(1.0, cooled)
        self.algorithm.rate_bounds = self.recipe.actor_rates(cooled)
        with torch.inference_mode():
            observations = self._collect()
            self.algorithm.compute_returns(observations)
        self._wait()
        middle = time.perf_counter()
        # Only the networks' products may be coarser than float32: rotations of the task are products as well.
        with float32_arithmetic(update_arithmetic(self.recipe.precision, self.device)):
            losses = self.algorithm.update()
        self._after_update(losses, self.recipe.std_bounds(cooled))
        self.updates += 1
        self.statistics["rollout_s"], self.statistics["update_s"] = middle - begin, time.perf_counter() - middle

    def _collect(self) -> TensorDict:
        env, algorithm = self.env, self.algorithm
        observations = env.get_observations()
        for _ in range(self.recipe.horizon):
            observations, rewards, dones, extras = env.step(algorithm.act(observations))
            algorithm.process_env_step(observations, rewards, dones, extras)
        return observations

    @torch.no_grad()
    def _after_update(self, losses: Mapping[str, float], std_bounds: tuple[float, float]) -> None:
        """Measure, keep the noise within its bounds, update the normaliser, share what the ranks learned of starts."""
        storage, network = self.algorithm.storage, self.policy.network
        assert storage.distribution_params is not None
        mean = network.mean(storage.observations["policy"][-1])
        now = mean, network.log_std.exp().expand_as(mean)
        kl = self.policy.get_kl_divergence(tuple(p[-1] for p in storage.distribution_params), now).mean()
        left = (storage.returns - storage.values).var() / storage.returns.var().clamp_min(1e-12)
        network.log_std.clamp_(*map(math.log, std_bounds))
        network.update_normaliser(critic_view(storage.observations.flatten(0, 1)))
        self.average.update()
        if self.ranks > 1:
            failure = self.env.sampler.failure
            failure.copy_(distributed.synchronised_sum(failure) / self.ranks)
        kl_nats, unexplained, std = torch.stack((kl, left, network.log_std.exp().mean())).tolist()
        self.statistics = {
            "kl_nats": kl_nats,
            "policy_loss": losses["surrogate"],
            "value_loss": losses["value"],
            "entropy_nats": losses["entropy"],
            "explained_variance": 1.0 - unexplained,
            "actor_rate": self.algorithm.learning_rate,
            "action_std": std,
        }

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def state(self) -> dict[str, object]:
        """Collect parameters, optimiser, rate, and every rank's generators and simulator states; all ranks call it."""
        random = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            random["cuda"] = torch.cuda.get_rng_state(self.device)
        own = {"random": random, "env": {name: value.cpu() for name, value in self.env.snapshot().items()}}
        return {
            "policy": self.policy.network.state_dict(),
            "average": self.average.state(),
            "optimizer": self.algorithm.optimizer.state_dict(),
            "actor_rate": self.algorithm.learning_rate,
            "updates": self.updates,
            "ranks": distributed.gather(own),
        }

    def restore(self, state: Mapping[str, object]) -> None:
        """Take back what :meth:`state` gave.

        Raises:
            KeyError: If something is missing.
            RuntimeError: If sizes differ.
        """
        own = state["ranks"][distributed.rank()]
        self.policy.network.load_state_dict(state["policy"])
        self.average.restore(state["average"])
        self.algorithm.optimizer.load_state_dict(state["optimizer"])
        self.algorithm.learning_rate = float(state["actor_rate"])
        self.updates = int(state["updates"])
        self._random_state = own["random"]
        self.env.restore(own["env"])
