"""Optimisers of a method's parameter groups and adaptive gradient clipping."""

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

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
    Departure: the unit is always the first axis, which in the kernels of transposed convolutions (input, output,
    ...) is the input unit.
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


def learning_rate(config: OptimisationConfig, progress: float) -> float:
    """Learning rate at step / schedule_steps: linear warm-up, then exponential or cosine decay over the rest."""
    if progress < config.warm_up:
        share = progress / config.warm_up
        return config.learning_rate * (config.warm_up_from + share * (1.0 - config.warm_up_from))
    if config.learning_rate_end is None:
        return config.learning_rate
    share = min((progress - config.warm_up) / (1.0 - config.warm_up), 1.0)
    if config.learning_rate_decay == "exponential":
        return exponential_schedule(config.learning_rate, config.learning_rate_end, share)
    span = config.learning_rate - config.learning_rate_end
    return config.learning_rate_end + 0.5 * span * (1.0 + math.cos(math.pi * share))


def fused_kernel(rule: str, parameters: Iterable[Tensor]) -> dict[str, bool]:
    """Options of an update rule that make one kernel of it: only on CUDA, and Adamax has none."""
    return {"fused": True} if rule != "adamax" and all(parameter.is_cuda for parameter in parameters) else {}


class GroupOptimiser:
    """The update rule on one parameter group, with its clipping."""

    def __init__(self, group: ParameterGroup, config: OptimisationConfig) -> None:
        self.name = group.name
        self.parameters = list(group.parameters)
        self.clipping = config.adaptive_clipping if group.adaptive_clipping else None
        self.follows_schedule = group.learning_rate is None
        self.config = config
        rule = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam, "adamax": torch.optim.Adamax}[config.optimiser]
        self.rule = rule(
            self.parameters,
            lr=config.learning_rate if group.learning_rate is None else group.learning_rate,
            weight_decay=config.weight_decay if group.weight_decay is None else group.weight_decay,
            **fused_kernel(config.optimiser, self.parameters),
        )

    def update(self, progress: float, scale: float = 1.0) -> None:
        """Clip, step and clear the gradients.

        Args:
            progress: step / schedule_steps, sets the learning rate.
            scale: What plateaus have left of it, see :class:`Plateau`.
        """
        if self.follows_schedule:
            scheduled = learning_rate(self.config, progress)
            floor = min(scheduled, self.config.plateau_floor)
            for parameters in self.rule.param_groups:
                parameters["lr"] = max(scheduled * scale, floor)
        if self.clipping is not None:
            clip_gradients_adaptively(self.parameters, self.clipping)
        self.rule.step()
        self.rule.zero_grad(set_to_none=True)


def build_optimisers(model: DiscreteAutoencoder, config: OptimisationConfig) -> tuple[GroupOptimiser, ...]:
    """One update rule per parameter group of the model."""
    return tuple(GroupOptimiser(group, config) for group in model.parameter_groups())


class Plateau:
    """Lowers the learning rate whenever the validation score has not improved for a while.

    Args:
        factor: What the learning rate is multiplied by.
        patience: Validations in a row without improvement that are forgiven.
    """

    def __init__(self, factor: float, patience: int) -> None:
        self.factor, self.patience = factor, patience
        self.best, self.waited, self.scale = -math.inf, 0, 1.0

    def observe(self, score: float) -> None:
        """Take a new score, higher is better; NaN is no improvement."""
        if score > self.best:
            self.best, self.waited = score, 0
            return
        self.waited += 1
        if self.waited > self.patience:
            self.scale, self.waited = self.scale * self.factor, 0

    def state(self) -> dict[str, float | int]:
        """What the next observation depends on."""
        return {"best": self.best, "waited": self.waited, "scale": self.scale}

    def load_state(self, state: Mapping[str, float | int]) -> None:
        """Continue exactly where :meth:`state` was taken."""
        self.best, self.waited, self.scale = float(state["best"]), int(state["waited"]), float(state["scale"])
