"""Score-function estimators and step-size control of policy search: pure functions.

Policy-search weights and the effective sample size, which Gumbel methods and evaluation also see, are in
``estimators``.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from motionlex.motion_vae.distributed import synchronised_mean
from motionlex.motion_vae.estimators import tempered_advantage

LOG_ETA_RANGE = (math.log(1e-6), math.log(1e6))
"""Bounds of log eta: with more samples than the target wants even at eta = 0 it would drift to minus infinity."""
LARGEST_LOG_RATIO = 20.0
"""Ratios of whole sequences above e^20 are cut there, before they overflow; they carry no gradient."""


@torch.no_grad()
def eta_for_ess(
    returns: Float[Tensor, "batch sample"],
    log_q: Float[Tensor, "batch sample"],
    *,
    beta: float,
    target: float,
    iterations: int = 32,
) -> Float[Tensor, " batch"]:
    r"""Find the trust-region temperature of every x that gives its weights a wanted effective sample size.

    .. math:: \mathrm{ESS}(\eta) = \frac{1}{\sum_k w_k(\eta)^2}, \quad
              w = \mathrm{softmax} \frac{R - \beta \log q}{\eta + \beta}

    With t = 1/(eta + beta) and the cumulant psi(t) = ln sum_k exp(t a_k), ln ESS = 2 psi(t) - psi(2t) falls with t
    since psi is convex: ESS rises with eta, and bisection of log eta between ``LOG_ETA_RANGE`` cannot miss. Where no
    eta in the range gives the target (equal returns; ties; a beta that alone spreads the weights), the nearer end
    of the range is returned.

    Args:
        returns: R_k = log p(x|z_k) [nat], one row per x.
        log_q: log q(z_k|x) [nat], same shape.
        beta: Entropy temperature, >= 0.
        target: Wanted effective sample size, in (1, number of samples).
        iterations: Halvings of the range; 32 leave 6e-9 of log eta, below float32's resolution.

    Returns:
        eta per x, in the precision of ``returns`` (at least float32), without gradient.

    Raises:
        ValueError: If the target is not in (1, number of samples).
    Source: DAPS, equation 8, solved per x.
    Departure: the paper follows the batch mean of the ESS by gradient descent on one log eta.
    """
    if not 1.0 < target < returns.shape[-1]:
        raise ValueError(f"target must be between 1 and the number of samples = {returns.shape[-1]}, got {target}")
    exponent = tempered_advantage(returns, log_q, beta=beta)
    lower = torch.full_like(exponent[..., :1], LOG_ETA_RANGE[0])
    upper = torch.full_like(lower, LOG_ETA_RANGE[1])
    for _ in range(iterations):
        middle = 0.5 * (lower + upper)
        weights = torch.softmax(exponent / (middle.exp() + beta), dim=-1)
        too_few = weights.square().sum(dim=-1, keepdim=True).reciprocal() < target
        lower, upper = torch.where(too_few, middle, lower), torch.where(too_few, upper, middle)
    return (0.5 * (lower + upper)).exp().squeeze(-1)


def leave_one_out_advantage(returns: Float[Tensor, "batch sample"]) -> Float[Tensor, "batch sample"]:
    r"""Compare every return with the mean of the other samples of the same x.

    .. math:: A_k = R_k - \frac{1}{K - 1} \sum_{j \ne k} R_j = \frac{K}{K - 1} (R_k - \bar R)

    The second form is what is computed: float32 returns of 1e5 keep their differences. The baseline does not see z_k,
    so the score-function gradient stays unbiased; the plain mean as baseline would shrink it by (K - 1)/K.

    Args:
        returns: R_k [nat], one row per x.

    Returns:
        Advantages [nat]; rows sum to zero.

    Raises:
        ValueError: If there is only one sample.
    Source: Kool et al. 2019, "Buy 4 REINFORCE samples, get a baseline for free".
    """
    samples = returns.shape[-1]
    if samples < 2:
        raise ValueError(f"a leave-one-out baseline needs at least 2 samples per x, got {samples}")
    return (returns - returns.mean(dim=-1, keepdim=True)) * (samples / (samples - 1))


def score_function_loss(
    log_q: Float[Tensor, "batch sample"], advantage: Float[Tensor, "batch sample"]
) -> Float[Tensor, ""]:
    r"""Loss whose gradient is the score-function estimate of minus the gradient of the expected return.

    .. math:: L = -\frac{1}{BK} \sum_{x, k} A_k \log q(z_k|x)

    Args:
        log_q: log q(z_k|x) [nat] with gradient.
        advantage: A_k = return minus a baseline that does not depend on z_k [nat]; its gradient is ignored.

    Returns:
        The loss; its value means nothing, only its gradient does.
    Source: Tutorial, equation 81; Williams 1992.
    """
    return -(advantage.detach() * log_q).mean()


def standardised(advantage: Float[Tensor, "batch sample"]) -> Float[Tensor, "batch sample"]:
    """Divide advantages by their root mean square over the whole batch (of all ranks).

    Args:
        advantage: Advantages of zero mean.

    Returns:
        Advantages of unit variance; zeros stay zero.
    Source: Common practice in PPO; the mean is not subtracted, it is zero per x already.
    """
    root_mean_square = synchronised_mean(advantage.detach().square().mean()).sqrt()
    return advantage / root_mean_square.clamp_min(torch.finfo(advantage.dtype).tiny)


def clipped_surrogate(
    log_ratio: Float[Tensor, "batch sample"], advantage: Float[Tensor, "batch sample"], *, clip: float
) -> Float[Tensor, "batch sample"]:
    r"""Pessimistic estimate of the improvement of a policy over the one that sampled.

    .. math:: \min(r A, \mathrm{clip}(r, 1 - \epsilon, 1 + \epsilon) A), \quad
              r = q_\theta(z|x) / q_{old}(z|x)

    The gradient is A grad r, and zero where r has already left the interval in the direction that A wants.

    Args:
        log_ratio: log q(z|x) - log q_old(z|x) [nat] of whole sequences, with gradient.
        advantage: A, without gradient.
        clip: epsilon in (0, 1).

    Returns:
        One value per sample, to be maximised.
    Source: Schulman et al. 2017, equation 7.
    Departure: ratios are cut at e^20 so that they cannot overflow.
    """
    ratio = log_ratio.clamp_max(LARGEST_LOG_RATIO).exp()
    return torch.minimum(ratio * advantage, ratio.clamp(1.0 - clip, 1.0 + clip) * advantage)


def approximate_kl(log_ratio: Float[Tensor, "batch sample"]) -> Float[Tensor, ""]:
    r"""Estimate KL(q_old || q) from samples of q_old: the mean of :math:`r - 1 - \ln r`, which is never negative.

    Args:
        log_ratio: ln r = log q(z|x) - log q_old(z|x) [nat].

    Returns:
        Divergence [nat], unbiased, since E_old[r] = 1.
    Source: Schulman, "Approximating KL divergence" (2020), estimator k3.
    """
    return (torch.expm1(log_ratio.clamp_max(LARGEST_LOG_RATIO)) - log_ratio).mean()
