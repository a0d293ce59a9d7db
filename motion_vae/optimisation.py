"""Optimisers of a method's parameter groups and adaptive gradient clipping."""

from collections.abc import Iterable

import torch
from torch import nn

from motionlex.motion_vae.contract import DiscreteAutoencoder, OptimisationConfig, ParameterGroup
from motionlex.motion_vae.estimators import exponential_schedule

SMALLEST_WEIGHT_NORM = 1e-3
"""Weights below this norm are treated as if they had it, so that zero-initialised ones can move."""


def clip_gradients_adaptively(parameters: Iterable[nn.Parameter], limit: float) -> None:
    r"""Scale the gradient of every output unit down to ``limit`` times the norm of its weights.

    .. math:: g_i \leftarrow g_i \min\Bigl(1, \lambda \frac{\max(\|w_i\|, 10^{-3})}{\|g_i\|}\Bigr)

    A unit is a row of a matrix or convolution kernel; a vector counts as one unit.

    Args:
        parameters: Parameters whose ``.grad`` is changed in place; those without are skipped.
        limit: lambda, > 0.
    Source: Brock et al. 2021, equation 3; the DAPS authors use limit 1.
    """
    for parameter in parameters:
        if parameter.grad is None:
            continue
        axes = tuple(range(1, parameter.ndim))
        weight, gradient = parameter.detach(), parameter.grad
        weight_norm = torch.linalg.vector_norm(weight, dim=axes or None, keepdim=True)
        gradient_norm = torch.linalg.vector_norm(gradient, dim=axes or None, keepdim=True)
        allowed = limit * weight_norm.clamp_min(SMALLEST_WEIGHT_NORM)
        gradient.mul_((allowed / gradient_norm.clamp_min(1e-12)).clamp_max(1.0))


class GroupOptimiser:
    """AdamW on one parameter group, with its clipping."""

    def __init__(self, group: ParameterGroup, config: OptimisationConfig) -> None:
        self.name = group.name
        self.parameters = list(group.parameters)
        self.clipping = config.adaptive_clipping if group.adaptive_clipping else None
        self.follows_schedule = group.learning_rate is None
        self.config = config
        self.adamw = torch.optim.AdamW(
            self.parameters,
            lr=config.learning_rate if group.learning_rate is None else group.learning_rate,
            weight_decay=config.weight_decay if group.weight_decay is None else group.weight_decay,
        )

    def update(self, progress: float) -> None:
        """Clip, step and clear the gradients; ``progress`` = step / schedule_steps sets the learning rate."""
        if self.follows_schedule and self.config.learning_rate_end is not None:
            rate = exponential_schedule(self.config.learning_rate, self.config.learning_rate_end, progress)
            for parameters in self.adamw.param_groups:
                parameters["lr"] = rate
        if self.clipping is not None:
            clip_gradients_adaptively(self.parameters, self.clipping)
        self.adamw.step()
        self.adamw.zero_grad(set_to_none=True)


def build_optimisers(model: DiscreteAutoencoder, config: OptimisationConfig) -> tuple[GroupOptimiser, ...]:
    """One AdamW per parameter group of the model."""
    return tuple(GroupOptimiser(group, config) for group in model.parameter_groups())
