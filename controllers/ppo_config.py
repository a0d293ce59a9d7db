"""Hyper-parameters of PPO, whichever library runs it, and the rules that follow from them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from motionlex.data.errors import UserError, check_number, unknown_name

Precision = Literal["auto", "float32", "bf16"]


@dataclass(frozen=True, kw_only=True)
class PPOConfig:
    """Hyper-parameters."""

    worlds: int = 512
    """Robots simulated at once."""
    horizon: int = 16
    """Control steps per robot between updates."""
    epochs: int = 5
    """Passes over the collected steps."""
    minibatch: int = 2048
    """Steps per gradient."""
    gamma: float = 0.97
    """Discount per control step."""
    gae_lambda: float = 0.9
    """Decay of the advantage estimate."""
    clip: float = 0.2
    """Clipping of the probability ratio."""
    entropy: float = 0.0
    """Weight of the entropy bonus."""
    max_gradient: float = 1.0
    """Norm at which gradients of actor and of critic are clipped."""
    actor_rate: float = 5e-4
    """Initial learning rate of the actor."""
    critic_rate: float = 1e-3
    """Learning rate of the critic, constant; on MuJoCo Warp the actor's rate is the critic's as well."""
    target_kl: float = 0.06
    """KL divergence [nat] per update that the actor's learning rate is steered to while every episode fails; it
    shrinks with the share of the failures."""
    minimum_kl: float = 0.01
    """Where that shrinking ends [nat]; as large as target_kl, it keeps the divergence constant, as it is on MuJoCo Warp
    in any case."""
    rate_bounds: tuple[float, float] = (1e-5, 5e-4)
    """Range of the actor's learning rate; a cool-down lowers its lower end."""
    minimum_std: float = 0.05
    """Smallest standard deviation of an action."""
    initial_std: float = 0.5
    """Standard deviation of a new policy's actions; one of --init or of imitation brings its own."""
    average: float = 0.02
    """Share of the updates so far over which the weights that are scored, saved and evaluated are averaged
    (exponentially); 0 for those of the last update."""
    cooldown: float = 0.0
    """Share of the run, at its end, in which the KL target and the bounds of the standard deviation fall geometrically
    to the next two: large steps and much noise find a gait and wander, small ones keep it and what noise forbids is
    learned. A resume with more --steps moves its begin, which undoes one that has begun: the noise returns at once."""
    cooldown_kl: float = 0.005
    """KL divergence [nat] per update at the end of the cool-down."""
    cooldown_std: float = 0.05
    """Standard deviation of an action at the end of the cool-down: smallest and largest."""
    precision: Precision = "auto"
    """Arithmetic of the networks' matrix products in the update (auto: bf16 where the processor multiplies it natively,
    as found when a run is created; on MuJoCo Warp TF32 on a GPU); parameters, losses and acting stay in float32, and so
    does an actor of little noise (on Warp any) instead of bf16: its divergence would be that of the rounding."""

    def __post_init__(self) -> None:
        for name in ("worlds", "horizon", "epochs", "minibatch", "max_gradient", "actor_rate", "critic_rate"):
            check_number(name, getattr(self, name), above=0)
        for name in ("target_kl", "minimum_kl", "minimum_std", "initial_std", "clip", "cooldown_kl", "cooldown_std"):
            check_number(name, getattr(self, name), above=0)
        check_number("entropy", self.entropy, at_least=0)
        for name in ("gamma", "gae_lambda"):
            check_number(name, getattr(self, name), at_least=0, at_most=1)
        if not (len(self.rate_bounds) == 2 and 0.0 < self.rate_bounds[0] <= self.rate_bounds[1]):
            raise UserError(f"rate_bounds must be two rising positive rates, got {self.rate_bounds}")
        if self.minimum_kl > self.target_kl:
            raise UserError(
                f"minimum_kl is {self.minimum_kl}, above target_kl = {self.target_kl}: give --set minimum_kl=... too"
            )
        for name in ("average", "cooldown"):
            check_number(name, getattr(self, name), at_least=0, at_most=1)
        for end, start in (
            ("cooldown_kl", "minimum_kl"),
            ("cooldown_std", "minimum_std"),
            ("cooldown_std", "initial_std"),
        ):
            low, high = getattr(self, end), getattr(self, start)
            if self.cooldown and low > high:
                raise UserError(f"{end} = {low} is where {start} = {high} falls to: give a smaller one")
        if self.precision not in get_args(Precision):
            raise unknown_name("precision", self.precision, get_args(Precision), "PPOConfig")

    def cooled(self, remaining: float) -> float:
        """Return how far the cool-down has gone, from 0 to 1, when a share ``remaining`` of the run is left."""
        return min(max(1.0 - remaining / self.cooldown, 0.0), 1.0) if self.cooldown else 0.0

    def kl_target(self, failing: float, cooled: float = 0.0) -> float:
        """Return the KL divergence [nat] to steer to while a share of the episodes fails.

        A policy that falls everywhere gains from large steps; one that rarely falls loses what it has to them.
        """
        return max(self.minimum_kl, self.target_kl * failing) ** (1.0 - cooled) * self.cooldown_kl**cooled

    def actor_rates(self, cooled: float) -> tuple[float, float]:
        r"""Return the smallest and the largest learning rate of the actor at a stage of the cool-down.

        Two Gaussians of deviation s whose means are d apart diverge by d^2 / 2 s^2: where the divergence falls to a
        share a and the deviation to a share b, steps have to fall to b sqrt(a), and the lower bound falls with them.
        """
        step = self.cooldown_std / self.minimum_std * math.sqrt(self.cooldown_kl / self.minimum_kl)
        lowest, highest = self.rate_bounds
        return lowest * step**cooled, highest

    def std_bounds(self, cooled: float) -> tuple[float, float]:
        """Return the smallest and the largest standard deviation of an action at a stage of the cool-down.

        Before it there is no largest one. In it the noise is brought down, rather than allowed to fall: gradients that
        are small enough to keep a gait would take much longer to do so.
        """
        lowest, highest = (
            start ** (1.0 - cooled) * self.cooldown_std**cooled for start in (self.minimum_std, self.initial_std)
        )
        return lowest, highest if cooled else math.inf

    def minibatch_of(self, ranks: int) -> int:
        """Return how many steps of a mini-batch each of several processes takes.

        Raises:
            UserError: If there are more processes than steps.
        """
        if self.minibatch < ranks:
            raise UserError(
                f"{ranks} processes share every mini-batch of {self.minibatch} steps: give --set minibatch={ranks} or "
                "more, or fewer --processes"
            )
        return self.minibatch // ranks


def native_precision(device: str) -> Precision:
    """Return bf16 where a device multiplies it natively, else float32: emulated bf16 is slower than float32."""
    if device != "cpu":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    found = getattr(torch.cpu, "get_capabilities", dict)()  # younger than the oldest torch that works
    return "bf16" if found.get("avx512_bf16") or found.get("amx_bf16") else "float32"


def adapted_rate(rate: float, kl: float, target: float, bounds: tuple[float, float]) -> float:
    """Return the next learning rate: divided by 1.2 above twice the target KL, times 1.2 below half of it."""
    if kl > 2.0 * target:
        return max(rate / 1.2, bounds[0])
    if kl < 0.5 * target:
        return min(rate * 1.2, bounds[1])
    return rate
