"""Numbers and pictures of a run on held-out images; the numbers are kept in the run as evaluation.json."""

import math
import types
import typing
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from motionlex.data.images.collection import Images
from motionlex.data.images.preprocessing import Preprocessing
from motionlex.data.images.source import in_order
from motionlex.data.storage import finite, write_json
from motionlex.motion_vae import metrics
from motionlex.motion_vae.autoencoders import QuantisedAutoencoder
from motionlex.motion_vae.contract import DiscreteAutoencoder
from motionlex.motion_vae.images.metrics import WINDOW, squared_error, structural_similarity
from motionlex.motion_vae.images.runs import TrainedImages
from motionlex.motion_vae.likelihoods import bits_per_dimension
from motionlex.motion_vae.measurement import describe_size
from motionlex.motion_vae.registry import PlainValue, domain_from_plain

EVALUATION_FILE = "evaluation.json"
"""Where the numbers are; its presence says that a run is finished."""
BATCH = 256
"""Images at once; also what GM-VQ's perplexities are those of."""
SHOWN = 16
"""Images of a picture."""
DISCRETE = ("bernoulli", "discretised_logistic")
"""Likelihoods that are probabilities rather than densities."""


@torch.no_grad()
def evaluate_images(
    model: DiscreteAutoencoder,
    preprocessing: Preprocessing,
    images: Images,
    *,
    family: str,
    limit: int | None = None,
    seed: int = 0,
) -> dict[str, PlainValue]:
    """Measure a model with one code sequence per image, drawn where the method draws at evaluation.

    Args:
        model: On its device, in evaluation mode.
        preprocessing: What it was trained with; errors are on [0, 1] against what the model saw.
        images: Held-out images.
        family: Of the likelihood; only probabilities have bits per dimension.
        limit: Measure on so many; None takes all.
        seed: Of the codes and of drawn pixels.

    Returns:
        Metrics by name, units in the names. None stands for what is not defined: beta-ELBO without an ELBO, SSIM of
        small images, bits of a density, codes of a continuous relative. Perplexities per batch are over batches of 256
        images; the last, smaller batch is left out of them unless it is the only one. That of the codes counts those
        that are decoded; that of the posterior is of the mean of q(c|x) over images and tokens (GM-VQ, equation 12 and
        section 4.1), for methods that choose the code of every token by itself at evaluation.
    """
    device = next(model.parameters()).device
    pixels = torch.Generator().manual_seed(seed)
    draws = torch.Generator(device=device).manual_seed(seed + 1)
    grid = model.domain.grid
    similar = min(grid) >= WINDOW
    parts: dict[str, list[Tensor]] = {"log_likelihood": [], "kl": [], "error": [], "similarity": []}
    counts, posteriors = [], []
    for x, _ in in_order(images, preprocessing, batch=BATCH, limit=limit, generator=pixels):
        x = x.to(device)
        codes = model.encode(x, draws)
        distribution = model.decode(codes)
        parts["log_likelihood"].append(distribution.log_prob(x))
        parts["kl"].append(model.kl_to_prior(x, codes))
        truth, mean = preprocessing.to_unit(x), preprocessing.to_unit(distribution.mean)
        parts["error"].append(squared_error(mean, truth))
        if similar:
            parts["similarity"].append(structural_similarity(mean, truth, (grid[0], grid[1])))
        if codes.indices is not None:
            counts.append(metrics.code_counts(codes.indices.cpu(), model.vocabulary))
        if isinstance(model, QuantisedAutoencoder):
            posteriors.append(model.code_probabilities(x).double().mean(dim=(0, 1)).cpu())
    found = {name: torch.cat(values).double().cpu() for name, values in parts.items() if values}
    log_likelihood, kl = found["log_likelihood"].mean().item(), found["kl"].mean().item()
    values, beta = math.prod(grid) * model.domain.features, model.final_beta
    bound = torch.tensor(log_likelihood - kl, dtype=torch.float64)
    return {
        "images": len(found["error"]),
        "beta_elbo": None if beta is None else log_likelihood - beta * kl,
        "beta": beta,
        "elbo_nats": bound.item(),
        "log_likelihood": log_likelihood,
        "kl_nats": kl,
        "bits_per_dimension": bits_per_dimension(bound, values).item() if family in DISCRETE else None,
        "mse_1e3": 1e3 * found["error"].mean().item(),
        "psnr_db": metrics.psnr_db(found["error"]).mean().item(),
        "ssim": found["similarity"].mean().item() if similar else None,
        **_code_metrics(counts, posteriors, len(images) if limit is None else min(limit, len(images))),
        **describe_size(model),
    }


def evaluate_run(
    trained: TrainedImages,
    images: Images,
    folder: Path,
    *,
    limit: int | None,
    further: Mapping[str, PlainValue] = types.MappingProxyType({}),
) -> dict[str, PlainValue]:
    """Measure a run, draw reconstructions.png and prior_samples.png, and write evaluation.json last.

    Args:
        trained: The run.
        images: Held-out images.
        folder: Where to write.
        limit: Measure on so many images; None takes all.
        further: What was found besides, kept with the rest.
    """
    family = str(typing.cast("Mapping[str, object]", trained.config.domain["likelihood_config"])["family"])
    result: dict[str, PlainValue] = {
        "method": trained.config.method,
        "setting": trained.config.preset,
        "data": trained.config.data,
        "steps": trained.meta["steps"],
        "batch": trained.config.optimisation.batch,
        "seed": trained.config.seed,
        **evaluate_images(trained.model, trained.preprocessing, images, family=family, limit=limit),
        **further,
    }
    result["pictures"] = [path.name for path in draw_pictures(trained, images, folder)]
    write_json(folder / EVALUATION_FILE, typing.cast("Mapping[str, object]", finite(result)))
    return result


@torch.no_grad()
def draw_pictures(trained: TrainedImages, images: Images, folder: Path) -> list[Path]:
    """Write originals above their reconstructions, and samples of the prior (continuous relatives have none).

    Returns:
        The files.
    """
    from motionlex.motion_vae.figures import save_picture  # matplotlib is slow to import and wanted only here

    model, preprocessing = trained.model, trained.preprocessing
    device = next(model.parameters()).device
    pixels, draws = torch.Generator().manual_seed(0), torch.Generator(device=device).manual_seed(1)
    x, _ = next(in_order(images, preprocessing, batch=SHOWN, limit=SHOWN, generator=pixels))
    mean = model.decode(model.encode(x.to(device), draws)).mean.cpu()
    grid = domain_from_plain(trained.config.domain).grid
    rows = torch.cat([preprocessing.to_unit(x), preprocessing.to_unit(mean)])
    drawn = [save_picture(tiled(rows, (grid[0], grid[1]), len(x)), folder / "reconstructions.png")]
    if model.discrete:
        samples = preprocessing.to_unit(prior_samples(model, SHOWN, draws).cpu())
        drawn.append(save_picture(tiled(samples, (grid[0], grid[1]), SHOWN // 2), folder / "prior_samples.png"))
    return drawn


@torch.no_grad()
def prior_samples(
    model: DiscreteAutoencoder, count: int, generator: torch.Generator
) -> Float[Tensor, "batch pixel colour"]:
    """Decode codes drawn from the prior: ancestral where the method has a hierarchy, else uniform codes.

    Args:
        model: A discrete method.
        count: Images.
        generator: On the model's device.
    """
    sample = getattr(model, "sample_prior", None)
    if sample is not None:
        return model.decode(sample(count, generator)).mean
    return model.decode_embeddings(model.embed(uniform_codes(model, count, generator))).mean


def uniform_codes(model: DiscreteAutoencoder, count: int, generator: torch.Generator) -> Int[Tensor, "batch token"]:
    """Draw every code of some sequences independently and uniformly from the whole vocabulary."""
    shape = (count, model.tokens)
    return torch.randint(model.vocabulary, shape, generator=generator, device=generator.device)


def tiled(
    images: Float[Tensor, "image pixel colour"], grid: tuple[int, int], columns: int
) -> UInt8[np.ndarray, "height width 3"]:
    """Lay images out row by row with white lines between them; grey ones become three equal colours.

    Args:
        images: Values in [0, 1]; their number is a multiple of ``columns``.
        grid: Rows and columns of pixels.
        columns: Images beside one another.
    """
    pictures = images.unflatten(1, grid).expand(-1, -1, -1, 3)
    framed = torch.nn.functional.pad(pictures, (0, 0, 1, 1, 1, 1), value=1.0)
    rows = framed.unflatten(0, (-1, columns)).permute(0, 2, 1, 3, 4)
    return np.rint(255.0 * rows.flatten(0, 1).flatten(1, 2).numpy()).astype(np.uint8)


def _code_metrics(counts: list[Tensor], posteriors: list[Tensor], images: int) -> dict[str, PlainValue]:
    whole = max(images // BATCH, 1)
    posterior = float(np.mean([metrics.perplexity(part) for part in posteriors[:whole]])) if posteriors else None
    of_posterior = {"posterior_perplexity_per_batch": posterior}
    if not counts:
        return {"usage": None, "perplexity": None, "perplexity_per_batch": None, **of_posterior}
    return {
        "usage": metrics.usage(torch.stack(counts).sum(dim=0)),
        "perplexity": metrics.perplexity(torch.stack(counts).sum(dim=0)),
        "perplexity_per_batch": float(np.mean([metrics.perplexity(part) for part in counts[:whole]])),
        **of_posterior,
    }
