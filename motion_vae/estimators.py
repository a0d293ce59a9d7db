"""Gradient estimators for discrete latents: pure functions, no state."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def policy_search_weights(
    returns: Float[Tensor, "batch sample"],
    log_q: Float[Tensor, "batch sample"],
    *,
    eta: float | Float[Tensor, ""],
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
        eta: Trust-region temperature, >= 0; the weights are differentiable in it.
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
    precision = torch.promote_types(torch.promote_types(returns.dtype, log_q.dtype), torch.float32)
    returns, log_q = returns.to(precision), log_q.to(precision)
    advantage = returns - returns.detach().amax(dim=-1, keepdim=True)
    exponent = advantage - beta * (log_q - log_q.detach().amax(dim=-1, keepdim=True))
    return torch.softmax(exponent / (eta + beta), dim=-1)


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
    """Find the code with the smallest Euclidean distance to each vector.

    Args:
        vectors: Output of the encoder.
        codebook: One row per code.

    Returns:
        Indices (batch, token), int64.
    """
    scores = vectors @ codebook.T - 0.5 * codebook.square().sum(dim=-1)
    return scores.argmax(dim=-1)


def moving_code_sums(
    count: Float[Tensor, " code"],
    total: Float[Tensor, "code feature"],
    vectors: Float[Tensor, "vector feature"],
    indices: Int[Tensor, " vector"],
    *,
    decay: float,
) -> tuple[Float[Tensor, " code"], Float[Tensor, "code feature"]]:
    r"""Advance the moving averages whose ratio is a codebook.

    .. math:: N_k \leftarrow \gamma N_k + (1 - \gamma) n_k, \quad
              m_k \leftarrow \gamma m_k + (1 - \gamma) \sum_{i: k_i = k} v_i

    Args:
        count: N, average number of vectors of each code.
        total: m, average sum of the vectors of each code.
        vectors: v, encoder outputs of a batch.
        indices: Code of each vector.
        decay: gamma in (0, 1), share of the old average that is kept.

    Returns:
        New N and m; the codes are m / N.
    Source: van den Oord et al. 2017, appendix A.1.
    """
    counts = torch.bincount(indices, minlength=len(count)).to(vectors.dtype)
    sums = torch.zeros_like(total).index_add_(0, indices, vectors)
    return decay * count + (1.0 - decay) * counts, decay * total + (1.0 - decay) * sums


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
    return -torch.log(-torch.log(uniform.clamp_min(smallest)).clamp_min(smallest))


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
    soft = torch.softmax((logits + noise) / temperature, dim=-1)
    if not hard:
        return soft
    one_hot = torch.zeros_like(soft).scatter_(-1, soft.argmax(dim=-1, keepdim=True), 1.0)
    return soft + (one_hot - soft).detach()
