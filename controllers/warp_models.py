"""Our policy as the actor and the critic that rsl_rl's PPO calls; both share one network object and its normaliser."""

from __future__ import annotations

import torch
from jaxtyping import Float
from tensordict import TensorDict
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from motionlex.controllers.low_level_policy import LowLevelPolicy

Parameters = tuple[Tensor, ...]
"""Mean and standard deviation of the actions."""


def critic_view(observations: TensorDict) -> Float[Tensor, "env feature"]:
    """Return all that is to be seen: what the policy sees and, where there is one, the privileged part."""
    return observations["critic"] if "critic" in observations.keys() else observations["policy"]


class _Part(nn.Module):
    """What rsl_rl asks of every model; nothing here remembers anything between steps."""

    is_recurrent = False

    def __init__(self, network: LowLevelPolicy) -> None:
        """Keep the network out of the parameters, which belong to either the actor or the critic."""
        super().__init__()
        self._network = (network,)

    @property
    def network(self) -> LowLevelPolicy:
        """The whole policy."""
        return self._network[0]

    def reset(self, dones: Tensor | None = None, hidden_state: None = None) -> None:
        """Nothing to forget."""

    def get_hidden_state(self) -> None:
        """Return no memory."""

    def detach_hidden_state(self, dones: Tensor | None = None) -> None:
        """Nothing to cut."""

    def update_normalization(self, obs: TensorDict) -> None:
        """Do nothing: the trainer updates the shared normaliser once, after it has measured the KL divergence."""


class WarpActor(_Part):
    """The actor with its log standard deviations and the convolution over the codes."""

    def __init__(self, network: LowLevelPolicy) -> None:
        """Register the actor's own parameters."""
        super().__init__(network)
        self.actor, self.codes, self.log_std = network.actor, network.codes, network.log_std
        self._mean: Tensor | None = None
        self._std: Tensor | None = None

    def forward(
        self,
        obs: TensorDict,
        masks: Tensor | None = None,
        hidden_state: None = None,
        stochastic_output: bool = False,
    ) -> Float[Tensor, "env action"]:
        """Return the mean action or, with ``stochastic_output``, a draw from torch's global generator."""
        with torch.autocast(obs["policy"].device.type, enabled=False):
            mean = self.network.mean(obs["policy"])
        if not stochastic_output:
            return mean
        self._mean, self._std = mean, self.log_std.exp().expand_as(mean)
        return mean + self._std * torch.randn_like(mean)

    @property
    def output_mean(self) -> Float[Tensor, "env action"]:
        """Mean of the last distribution."""
        return self.output_distribution_params[0]

    @property
    def output_std(self) -> Float[Tensor, "env action"]:
        """Standard deviation of the last distribution."""
        return self.output_distribution_params[1]

    @property
    def output_entropy(self) -> Float[Tensor, " env"]:
        """Entropy of the last distribution [nat]."""
        return _normal(self.output_distribution_params).entropy().sum(-1)

    @property
    def output_distribution_params(self) -> Parameters:
        """Mean and standard deviation of the last distribution."""
        assert self._mean is not None and self._std is not None, "no distribution before the first stochastic output"
        return self._mean, self._std

    def get_output_log_prob(self, outputs: Float[Tensor, "env action"]) -> Float[Tensor, " env"]:
        """Return the log probability of actions under the last distribution."""
        return _normal(self.output_distribution_params).log_prob(outputs).sum(-1)

    def get_kl_divergence(self, old_params: Parameters, new_params: Parameters) -> Float[Tensor, " env"]:
        """Return KL(old || new) [nat]."""
        return kl_divergence(_normal(old_params), _normal(new_params)).sum(-1)


class WarpCritic(_Part):
    """The critic, with a convolution over the codes of its own where it sees nothing else."""

    def __init__(self, network: LowLevelPolicy) -> None:
        """Register the critic's own parameters."""
        super().__init__(network)
        self.critic, self.critic_codes = network.critic, network.critic_codes

    def forward(
        self,
        obs: TensorDict,
        masks: Tensor | None = None,
        hidden_state: None = None,
        stochastic_output: bool = False,
    ) -> Float[Tensor, "env 1"]:
        """Return values."""
        return self.network.value(critic_view(obs))[:, None]


def _normal(parameters: Parameters) -> Normal:
    mean, std = parameters
    return Normal(mean, std, validate_args=False)
