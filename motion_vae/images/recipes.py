"""What decides how an image model is trained, and the configuration and pre-processing that follow from it."""

from dataclasses import dataclass, fields, replace
from pathlib import Path

from motionlex.data.errors import UserError
from motionlex.data.images.dataset import ImageData, load_image_dataset
from motionlex.data.images.preprocessing import Form, Preprocessing, fit_standardisation
from motionlex.motion_vae.checkpoint import RunConfig
from motionlex.motion_vae.contract import Preset
from motionlex.motion_vae.images.domain import ImageDomain
from motionlex.motion_vae.images.presets import image_preset
from motionlex.motion_vae.likelihoods import Family, LikelihoodConfig
from motionlex.motion_vae.registry import domain_to_plain, override, to_plain


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides what is trained."""

    method: str
    """Name in the registry."""
    setting: str
    """Data set with its bottleneck, see :func:`motionlex.motion_vae.images.presets.available_settings`."""
    data: str
    """Name of the image data set."""
    data_root: str | None = None
    """Its folder; None for ``MOTIONLEX_IMAGES`` or a set without files."""
    family: Family
    """Likelihood; decides the pre-processing too."""
    resampled: bool = False
    """Whether black and white are drawn anew at every reading (the tutorial) instead of by a threshold."""
    changes: tuple[str, ...] = ()
    """Changes of the setting's recipe, as ``name=value``."""
    width: int | None = None
    """Width of all networks; None takes the paper's."""
    batch: int | None = None
    """Images per step; None takes the setting's."""
    steps: int
    """Total steps, which are the annealing horizon too."""
    seed: int = 0
    """Of the initial weights, the order of the images and the samples."""


def load_recipe_data(recipe: Recipe) -> ImageData:
    """Load the images of a recipe."""
    return load_image_dataset(recipe.data, None if recipe.data_root is None else Path(recipe.data_root))


def resolve(recipe: Recipe, data: ImageData) -> tuple[Preprocessing, RunConfig]:
    """Work out all sizes and numbers of a run.

    Raises:
        UserError: If the setting is for images of another size, or a change is refused.
    """
    config, domain = run_config(recipe)
    if (*domain.grid, domain.channels) != data.shape:
        wanted = " x ".join(map(str, (*domain.grid, domain.channels)))
        raise UserError(
            f"setting {recipe.setting!r} is for images of {wanted}, those of {data.title} are of "
            f"{' x '.join(map(str, data.shape))}"
        )
    return _preprocessing(recipe, data), config


def run_config(recipe: Recipe) -> tuple[RunConfig, ImageDomain]:
    """Work out what does not depend on the images, which is the whole configuration.

    Raises:
        UserError: If a change is refused.
    """
    preset, domain = image_preset(recipe.method, recipe.setting)
    if recipe.family != preset.likelihood.family:
        preset = replace(preset, likelihood=LikelihoodConfig(family=recipe.family))
    preset = override(preset, recipe.changes)
    try:
        preset, domain = _resized(preset, domain, recipe.width)
        domain = replace(domain, likelihood_config=preset.likelihood)
        batch = preset.optimisation.batch if recipe.batch is None else recipe.batch
        optimisation = replace(preset.optimisation, steps=recipe.steps, batch=batch)
    except ValueError as error:
        raise UserError(f"{recipe.method} on {recipe.setting}: {error}") from error
    config = RunConfig(
        method=recipe.method,
        preset=recipe.setting,
        method_config=to_plain(preset.method),
        optimisation=optimisation,
        domain=domain_to_plain(domain),
        schedule_steps=recipe.steps,
        data=recipe.data,
        data_root=recipe.data_root,
        seed=recipe.seed,
    )
    return config, domain


def _resized(preset: Preset, domain: ImageDomain, width: int | None) -> tuple[Preset, ImageDomain]:
    """Give every network the same width: transformers, ladders, codes and channels of convolutions."""
    if width is None:
        return preset, domain
    known = {field.name for field in fields(preset.method)}
    parts = {name: getattr(preset.method, name) for name in ("networks", "ladder") if name in known}
    changes: dict[str, object] = {name: replace(part, width=width) for name, part in parts.items()}
    if "embedding_width" in known:
        changes["embedding_width"] = width
    return replace(preset, method=replace(preset.method, **changes)), replace(domain, hidden=width)


def _preprocessing(recipe: Recipe, data: ImageData) -> Preprocessing:
    if recipe.family in ("gaussian", "learned_gaussian", "predicted_gaussian"):
        return fit_standardisation(data.train)
    binary: Form = "bernoulli" if recipe.resampled else "threshold"
    return Preprocessing(form=binary if recipe.family == "bernoulli" else "unit")
