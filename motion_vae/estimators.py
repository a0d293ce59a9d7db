"""Gradient estimators for discrete latents: pure functions, no state."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from motionlex.motion_vae.precision import exact_products


def policy_search_weights(
    returns: Float[Tensor, "batch sample"],
    log_q: Float[Tensor, "batch sample"],
    *,
    eta: float | Float[Tensor, ""] | Float[Tensor, "batch 1"],
    beta: float | Float[Tensor, ""],
) -> Float[Tensor, "batch sample"]:
    r"""Weight samples of the encoder by the non-parametric optimum of the trust-region problem.

    .. math:: w_k = \mathrm{softmax}_k \frac{R_k - \beta \log q_k}{\eta + \beta}

    which is q*(z_k|x) / q(z_k|x), self-normalised: log q* = (A + eta log q) / (eta + beta), and whatever baseline A
    subtracts from R cancels in the normalisation. The row maximum of the returns is subtracted before the division,
    because float32 returns of 1e5 leave only two digits for their differences.

    Args:
        returns: R_k = log p(x|z_k) [nat], one row per x.
        log_q: log q(z_k|x) [nat], same shape.
        eta: Trust-region temperature, >= 0, common or one per x; the weights are differentiable in it.
        beta: Entropy temperature, >= 0; eta + beta must be positive.

    Returns:
        Weights whose rows sum to one, in the precision of ``returns`` (at least float32).

    Raises:
        ValueError: If eta or beta is a negative float, or both are zero.
    Source: DAPS, equation 5 and algorithm 1.
    """
    for name, value in (("eta", eta), ("beta", beta)):
        if isinstance(value, (int, float)) and not value >= 0.0:
            raise ValueError(f"{name} must be >= 0, got {value}")
    if isinstance(eta, (int, float)) and isinstance(beta, (int, float)) and eta + beta == 0.0:
        raise ValueError("eta + beta must be positive, got 0")
    return torch.softmax(tempered_advantage(returns, log_q, beta=beta) / (eta + beta), dim=-1)


def tempered_advantage(
    returns: Float[Tensor, "batch sample"], log_q: Float[Tensor, "batch sample"], *, beta: float | Float[Tensor, ""]
) -> Float[Tensor, "batch sample"]:
    """R - beta log q [nat] up to a constant per row, in at least float32: what policy search divides by eta + beta."""
    precision = torch.promote_types(torch.promote_types(returns.dtype, log_q.dtype), torch.float32)
    returns, log_q = returns.to(precision), log_q.to(precision)
    advantage = returns - returns.detach().amax(dim=-1, keepdim=True)
    return advantage - beta * (log_q - log_q.detach().amax(dim=-1, keepdim=True))


def effective_sample_size(weights: Float[Tensor, "batch sample"]) -> Float[Tensor, " batch"]:
    r"""Count how many samples carry the weight of each row.

    .. math:: \mathrm{ESS} = \frac{(\sum_k w_k)^2}{\sum_k w_k^2}

    Args:
        weights: Non-negative importance weights, one row per x.

    Returns:
        Between 1 (one sample has it all) and the number of samples (all equal).
    Source: DAPS, equation 8 before its batch mean.
    """
    return weights.sum(dim=-1).square() / weights.square().sum(dim=-1)


def straight_through(
    continuous: Float[Tensor, "*shape feature"], quantised: Float[Tensor, "*shape feature"]
) -> Float[Tensor, "*shape feature"]:
    """Return ``quantised`` in the forward pass and hand its gradient to ``continuous`` unchanged.

    Args:
        continuous: Output of the encoder.
        quantised: Its nearest code.

    Returns:
        The values of ``quantised``.
    Source: van den Oord et al. 2017, section 3.2.
    """
    return continuous + (quantised - continuous).detach()


def nearest_code(
    vectors: Float[Tensor, "batch token feature"], codebook: Float[Tensor, "code feature"]
) -> Int[Tensor, "batch token"]:
    """Find the code with the smallest Euclidean distance to each vector, in full precision whatever that of the body.

    Args:
        vectors: Output of the encoder.
        codebook: One row per code.

    Returns:
        Indices (batch, token), int64.
    """
    with exact_products(vectors.device):
        scores = vectors.to(codebook.dtype) @ codebook.T - 0.5 * codebook.square().sum(dim=-1)
    return scores.argmax(dim=-1)


def exponential_schedule(start: float, end: float, fraction: float) -> float:
    r"""Anneal a positive quantity by a constant factor per step.

    .. math:: \beta_t = \beta_0 (\beta_{end} / \beta_0)^{t/T}

    Args:
        start: Value at fraction 0, > 0.
        end: Value at fraction 1 and beyond, > 0.
        fraction: t/T; values outside [0, 1] are clamped.

    Returns:
        The annealed value.
    Source: DAPS, code of the authors (the paper does not give the schedule).
    """
    return start * (end / start) ** min(max(fraction, 0.0), 1.0)


def gumbel_noise(logits: Float[Tensor, "*shape"], generator: torch.Generator) -> Float[Tensor, "*shape"]:
    """Draw standard Gumbel noise, -ln(-ln u), of the shape, precision and device of ``logits``."""
    uniform = torch.rand(logits.shape, generator=generator, device=logits.device, dtype=logits.dtype)
    smallest = torch.finfo(logits.dtype).tiny
    # In place: with a thousand codes per token every copy costs more than the arithmetic.
    exponential = uniform.clamp_min_(smallest).log_().neg_()
    return exponential.clamp_min_(smallest).log_().neg_()


def gumbel_softmax(
    logits: Float[Tensor, "*shape code"], noise: Float[Tensor, "*shape code"], *, temperature: float, hard: bool = True
) -> Float[Tensor, "*shape code"]:
    r"""Relax a categorical draw.

    .. math:: y = \mathrm{softmax}\Bigl(\frac{\ell + g}{\tau}\Bigr)

    Args:
        logits: Unnormalised log-probabilities l.
        noise: Gumbel noise g, see :func:`gumbel_noise`.
        temperature: tau > 0; lower is closer to one-hot and has a larger gradient variance.
        hard: Return the one-hot of the largest entry with the gradient of y (straight-through) instead of y.

    Returns:
        Weights that sum to one over the codes.

    Raises:
        ValueError: If the temperature is not positive.
    Source: Jang et al. 2017, equation 2 and section 2.2.
    """
    if not temperature > 0.0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    soft = torch.softmax((logits + noise).div_(temperature), dim=-1)
    if not hard:
        return soft
    return _one_hot_with_gradient(soft, soft.argmax(dim=-1))


def conditional_gumbels(
    logits: Float[Tensor, "*shape code"], index: Int[Tensor, "*shape"], generator: torch.Generator, *, samples: int
) -> Float[Tensor, "sample *shape code"]:
    r"""Draw perturbed logits l + g whose largest entry is known.

    With standard Gumbels :math:`g`, the largest of all perturbed logits is independent of which entry it is, and the
    others are Gumbels cut off above it:

    .. math:: M = \ln \sum_i e^{\ell_i} + g_{index}, \quad
              M_j = -\ln\bigl(e^{-M} + e^{-(\ell_j + g_j)}\bigr) \le M

    Args:
        logits: Unnormalised log-probabilities l, finite.
        index: Where the largest entry is to be.
        generator: Source of the noise.
        samples: Independent draws.

    Returns:
        Perturbed logits, a differentiable function of ``logits`` for fixed noise. Averaged over indices drawn from
        softmax(l) they have the law of l + g.

    Raises:
        ValueError: If there are no samples.
    Source: Paulus et al. 2020, section 3 (the conditional law); Maddison et al. 2014 (truncated Gumbels).
    """
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    noise = gumbel_noise(logits.detach().expand(samples, *logits.shape), generator)
    place = index.unsqueeze(-1).expand(samples, *index.shape, 1)
    largest = torch.logsumexp(logits, dim=-1, keepdim=True) + noise.gather(-1, place)
    others = -torch.logaddexp(-largest, -(logits + noise))
    return others.scatter(-1, place, largest)


def gumbel_rao(
    logits: Float[Tensor, "*shape code"],
    index: Int[Tensor, "*shape"],
    generator: torch.Generator,
    *,
    temperature: float,
    samples: int,
    as_published: bool = False,
) -> Float[Tensor, "*shape code"]:
    r"""Average the straight-through gradient over the Gumbel noise that would have given the same draw.

    .. math:: \frac{\partial z}{\partial \ell} := \frac{1}{K} \sum_k
              \frac{\partial\, \mathrm{softmax}((\ell + g_k) / \tau)}{\partial \ell}, \quad g_k \sim p(g \mid z)

    The mean over draws is that of straight-through Gumbel-softmax (whose gradient depends on the noise only through
    this Jacobian and z), its variance is smaller. For that, g_k is a constant in the derivative although its
    conditional law depends on l.

    Args:
        logits: Unnormalised log-probabilities l.
        index: The draw z from softmax(l).
        generator: Source of the conditional noise.
        temperature: tau > 0.
        samples: K, conditional draws per code.
        as_published: Differentiate through g_k(l) as well, as the paper's text says and public code does. The mean is
            then another one, and small: between two codes every Jacobian shrinks by p (1 - exp(-|x|)), with p the
            probability of the draw and x the difference of the perturbed logits.

    Returns:
        The one-hot of ``index``, exactly, with the averaged gradient.

    Raises:
        ValueError: If the temperature is not positive or there are no samples.
    Source: Paulus et al. 2020, section 3 (GR-MCK).
    Departure: the derivative leaves g_k alone unless ``as_published``.
    """
    if not temperature > 0.0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    if as_published:
        perturbed = conditional_gumbels(logits, index, generator, samples=samples)
    else:
        with torch.no_grad():
            noise = conditional_gumbels(logits, index, generator, samples=samples).sub_(logits)
        perturbed = logits + noise
    return _one_hot_with_gradient(torch.softmax(perturbed / temperature, dim=-1).mean(dim=0), index)


def _one_hot_with_gradient(
    soft: Float[Tensor, "*shape code"], index: Int[Tensor, "*shape"]
) -> Float[Tensor, "*shape code"]:
    """Exactly 1 at ``index`` and 0 elsewhere, with the gradient of ``soft``."""
    return _OneHot.apply(soft, index)


class _OneHot(torch.autograd.Function):
    """What y + (x - x.detach()) gives for a one-hot y, without its copies."""

    generate_vmap_rule = True

    @staticmethod
    def forward(soft: Tensor, index: Tensor) -> Tensor:
        """Ones at the indices."""
        return torch.zeros_like(soft).scatter_(-1, index.unsqueeze(-1), 1.0)

    @staticmethod
    def setup_context(context: object, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        """Nothing is needed for the gradient."""

    @staticmethod
    def backward(context: object, gradient: Tensor) -> tuple[Tensor, None]:
        """Hand the gradient on."""
        return gradient, None
