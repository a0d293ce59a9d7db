"""Mathematics of vector and scalar quantisation: pure functions, no state."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from motionlex.motion_vae.estimators import nearest_code
from motionlex.motion_vae.precision import exact_products


def full_precision(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Promote to at least float32: distances between codes do not survive bf16."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def synchronised_straight_through(
    continuous: Float[Tensor, "*shape feature"], quantised: Float[Tensor, "*shape feature"], *, share: float
) -> Float[Tensor, "*shape feature"]:
    r"""Straight-through, where the codes too receive a share of the gradient of the task.

    .. math:: z + \mathrm{sg}(q - z) + \nu (q - \mathrm{sg}(q))

    Args:
        continuous: z, output of the encoder.
        quantised: q, its codes, with gradient.
        share: nu >= 0; 0 is the plain straight-through estimator.

    Returns:
        The values of ``quantised``.
    Source: Huh et al. 2023, synchronised update (equation 21).
    """
    output = continuous + (quantised - continuous).detach()
    return output if share == 0.0 else output + share * (quantised - quantised.detach())


def code_sums(
    vectors: Float[Tensor, "vector feature"], indices: Int[Tensor, " vector"], codes: int
) -> tuple[Float[Tensor, " code"], Float[Tensor, "code feature"]]:
    """Count the vectors of each code and add them up.

    Args:
        vectors: Encoder outputs.
        indices: Code of each vector.
        codes: Size of the codebook.

    Returns:
        Counts and sums, in the precision of the vectors.
    """
    # Not bincount, which makes the host wait for the largest index.
    counts = indices.new_zeros(codes).scatter_add_(0, indices, torch.ones_like(indices))
    return counts.to(vectors.dtype), vectors.new_zeros(codes, vectors.shape[-1]).index_add_(0, indices, vectors)


@torch.no_grad()
def k_means(
    vectors: Float[Tensor, "vector feature"], codes: int, generator: torch.Generator, *, iterations: int = 10
) -> Float[Tensor, "code feature"]:
    """Cluster vectors by Lloyd's algorithm from a k-means++ start.

    Args:
        vectors: What to cluster; with fewer distinct vectors than ``codes``, centres repeat.
        codes: Number of centres.
        generator: Source of randomness, on the device of the vectors.
        iterations: Steps of Lloyd's algorithm; a centre that loses all its vectors stays.

    Returns:
        Centres, at least float32.
    Source: Arthur & Vassilvitskii 2007 (start), Lloyd 1982.
    """
    vectors = full_precision(vectors)
    centred = vectors - vectors.mean(dim=0)
    squares = centred.square().sum(dim=-1)
    distance = torch.full_like(squares, torch.finfo(vectors.dtype).max)
    chosen = torch.randint(len(vectors), (codes,), generator=generator, device=vectors.device)
    for code in range(codes):
        if code > 0 and bool((distance > 0.0).any()):
            chosen[code] = torch.multinomial(distance, 1, generator=generator)[0]
        centre = centred[chosen[code]]
        # Multiplied out it is one product per centre; rounding may leave a chosen vector a little off zero.
        with exact_products(vectors.device):
            to_centre = squares - 2.0 * centred @ centre + centre.square().sum()
        distance = torch.minimum(distance, to_centre.clamp_min(0.0))
        distance[chosen[code]] = 0.0
    centres = vectors[chosen]
    for _ in range(iterations):
        counts, sums = code_sums(vectors, nearest_code(vectors.unsqueeze(0), centres)[0], codes)
        centres = torch.where(counts.unsqueeze(-1) > 0.0, sums / counts.clamp_min(1.0).unsqueeze(-1), centres)
    return centres


def weighted_distance_logits(
    latents: Float[Tensor, "batch token feature"],
    weights: Float[Tensor, "batch token feature"],
    codebook: Float[Tensor, "code feature"],
) -> Float[Tensor, "batch token code"]:
    r"""Log-probabilities of codes by their weighted distance, up to the normaliser.

    .. math:: \ell_c = -\tfrac12 \sum_i w_i (z_i - \mu_{c,i})^2

    The square is multiplied out, so that no tensor (batch, token, code, feature) is needed; both sides are shifted by
    the mean code first, which keeps the terms, and so their rounding, small where w is large.

    Args:
        latents: z.
        weights: w >= 0, one per latent and feature.
        codebook: mu, one row per code.

    Returns:
        Logits in at least float32, also under autocast.
    Source: GM-VQ, equation 16; with w = 1/sigma^2, SQ-VAE's posterior (Takida et al. 2022).
    """
    with exact_products(latents.device):
        z, w, mu = full_precision(latents), full_precision(weights), full_precision(codebook)
        centre = mu.detach().mean(dim=0)
        z, mu = z - centre, mu - centre
        return (w * z) @ mu.T - 0.5 * (w @ mu.square().T) - 0.5 * (w * z.square()).sum(dim=-1, keepdim=True)


def mixed_codes(
    weights: Float[Tensor, "batch token code"], codebook: Float[Tensor, "code feature"]
) -> Float[Tensor, "batch token feature"]:
    """Average codes by weights (a one-hot row looks one up), in full precision also under autocast."""
    with exact_products(weights.device):
        return full_precision(weights) @ full_precision(codebook)


def bounded(z: Float[Tensor, "*shape coordinate"], levels: Sequence[int]) -> Float[Tensor, "*shape coordinate"]:
    r"""Squash each coordinate so that rounding gives one of its levels, and 0 stays 0.

    .. math:: f(z) = h \tanh(z + \operatorname{artanh}(o/h)) - o, \quad h = (L - 1)(1 - 10^{-3})/2

    with o = 1/2 for even L and 0 otherwise.

    Args:
        z: Outputs of the encoder.
        levels: L, one per coordinate, each at least 3.

    Returns:
        Values that round to -floor(L/2), ..., ceil(L/2) - 1.
    Source: Mentzer et al. 2023 (FSQ), appendix A.1.
    Departure: artanh where the printed code has tan, so that f(0) = 0 exactly.
    """
    half = z.new_tensor([(n - 1) * (1.0 - 1e-3) / 2.0 for n in levels])
    offset = z.new_tensor([0.5 if n % 2 == 0 else 0.0 for n in levels])
    return torch.tanh(z + torch.atanh(offset / half)) * half - offset


def digits_to_indices(digits: Int[Tensor, "*shape coordinate"], levels: Sequence[int]) -> Int[Tensor, "*shape"]:
    """Read digits in [0, L) as one number of mixed radix, the first coordinate changing fastest."""
    return (digits * _basis(levels, digits)).sum(dim=-1)


def indices_to_digits(indices: Int[Tensor, "*shape"], levels: Sequence[int]) -> Int[Tensor, "*shape coordinate"]:
    """Undo :func:`digits_to_indices`."""
    return indices.unsqueeze(-1) // _basis(levels, indices) % indices.new_tensor(levels)


def digits_to_codes(digits: Int[Tensor, "*shape coordinate"], levels: Sequence[int]) -> Float[Tensor, "*shape code"]:
    """Scale digits in [0, L) to [-1, 1]: (digit - floor(L/2)) / floor(L/2)."""
    half = torch.tensor([n // 2 for n in levels], device=digits.device)
    return (digits - half) / half


def levels_for_budget(bits: int, coordinates: int | None = None) -> tuple[int, ...]:
    """Levels of a scalar quantiser with exactly 2^bits codes.

    A product is a power of two only if every level is one, so the bits are dealt out to the coordinates as evenly as
    possible, the larger levels first: 8 bits give (8, 8, 4), 10 bits (8, 8, 4, 4), or (16, 8, 8) on 3 coordinates.
    Without a wish the number of coordinates is ceil(bits / 3), i.e. levels of 8 and 4: that is the number in the
    recommended sets of Mentzer et al. 2023 (table 1), namely 3 at 8 bits, 4 at 10, 5 at 14 and 6 at 16 bits; at 12 bits
    they take 5 and we 4. Their sets come only near the budget: (8, 6, 5) has 240 codes, (8, 5, 5, 5) has 1000.

    Args:
        bits: Budget per token [bit].
        coordinates: Wanted number of coordinates; None chooses it.

    Returns:
        Levels, all at least 4, in descending order.

    Raises:
        ValueError: If there is no such set: every level from 3 on that is a power of two takes two bits or more.
    """
    if bits < 2:
        raise ValueError(f"bits must be at least 2 (levels are at least 3), got {bits}")
    count = math.ceil(bits / 3) if coordinates is None else coordinates
    if not 1 <= count <= bits // 2:
        raise ValueError(f"{bits} bits need between 1 and {bits // 2} coordinates of at least 2 bits, got {count}")
    share, left = divmod(bits, count)
    return tuple(2 ** (share + (position < left)) for position in range(count))


def _basis(levels: Sequence[int], like: Tensor) -> Int[Tensor, " coordinate"]:
    return torch.tensor([math.prod(levels[:position]) for position in range(len(levels))], device=like.device)
