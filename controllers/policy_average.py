r"""The mean of a policy's weights along its training, which is what a run scores, saves and evaluates.

PPO on small batches wanders: at a divergence per update that learns fast, two policies a hundred updates apart may stay
upright in half and in three quarters of the same rollouts. The mean of their weights keeps what they agree on. Training
itself does not see it. The mean is exponential, with a horizon of a fixed share of the updates so far: it forgets the
poor beginnings of a run and needs no number of steps of its own.

Source: Polyak and Juditsky 1992; horizons that grow with the run as in Karras et al. 2024 (power function averages).
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from motionlex.controllers.low_level_policy import LowLevelPolicy


class PolicyAverage:
    """Weights of a policy in training, averaged over the latest share of its updates."""

    def __init__(self, policy: LowLevelPolicy, share: float) -> None:
        """Copy a policy; until the first update that copy means nothing.

        Args:
            policy: In training; on the device where its mean will be, too.
            share: Horizon of the mean as a share of the updates so far; 0 for the policy of the last update.
        """

        def towards(mean: Tensor, new: Tensor, updates: Int[Tensor, ""]) -> Float[Tensor, "*shape"]:
            return mean.lerp(new, 1.0 / (1.0 + share * float(updates)))

        self._own = policy
        self._mean = AveragedModel(policy, avg_fn=towards)

    @property
    def policy(self) -> LowLevelPolicy:
        """The mean: another object than the policy in training, which it is before the first update."""
        if int(self._mean.n_averaged) == 0:
            return self._own
        policy = self._mean.module
        assert isinstance(policy, LowLevelPolicy)
        return policy

    def update(self) -> None:
        """Move towards the weights of the policy in training; take over its normaliser, codebook and noise."""
        self._mean.update_parameters(self._own)
        with torch.no_grad():
            self.policy.log_std.copy_(self._own.log_std)

    def state(self) -> dict[str, Tensor]:
        """Return what a checkpoint keeps."""
        return self._mean.state_dict()

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take back what :meth:`state` gave.

        Raises:
            RuntimeError: If something is missing or sizes differ.
        """
        self._mean.load_state_dict(state)
