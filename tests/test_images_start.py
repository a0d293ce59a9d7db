"""Where training begins on images: a codebook without a good start ends with one code."""

import pytest
import torch

from motionlex.data.images.source import ImageSource
from motionlex.motion_vae.images.recipes import Recipe, load_recipe_data, resolve
from motionlex.motion_vae.registry import get_preset
from motionlex.motion_vae.trainer import Trainer


@pytest.mark.parametrize(("start", "smallest", "largest"), [("paper", 6.0, 16.0), ("normal", 1.0, 3.0)])
def test_vq_vae_starts_among_the_outputs_of_the_encoder_since_it_collapses_otherwise(start, smallest, largest):
    """The paper's preset names no start; from a normal one a single code takes everything (perplexity 1 of 16)."""
    kmeans = get_preset("vqvae", "paper").method.kmeans_start if start == "paper" else False
    plain = ("codebook_update=gradient", "replace_dead=never", "continuous=0", f"kmeans_start={str(kmeans).lower()}")
    recipe = Recipe(
        method="vqvae", setting="tiny", data="digits", family="bernoulli", steps=1000, batch=64, changes=plain
    )
    data = load_recipe_data(recipe)
    preprocessing, config = resolve(recipe, data)
    source = ImageSource(data.train, preprocessing, seed=0)
    trainer = Trainer(
        config.build(), source, config.optimisation, schedule_steps=1000, seed=0, device=torch.device("cpu")
    )
    for _ in range(25):
        values = trainer.step()
    generator = torch.Generator().manual_seed(0)
    codes = trainer.model.encode(source.sample(256, generator), generator).indices
    frequencies = torch.bincount(codes.flatten()).double() / codes.numel()
    used = frequencies[frequencies > 0.0]
    perplexity = float((-(used * used.log()).sum()).exp())
    assert smallest <= perplexity <= largest
    assert values["batch_perplexity"] <= largest
