"""Models of the built-in digits learn what the figures of the papers show, in a hundred steps or two."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from motionlex.data.images.dataset import load_image_dataset
from motionlex.motion_vae.images import bottleneck_sweep, gumbel_bias, runs
from motionlex.motion_vae.images.beta_ess_grid import BETA_ESS_GRID, cell_name
from motionlex.motion_vae.images.evaluation import evaluate_images
from motionlex.motion_vae.images.jobs import Finished, Options, TrainingJob
from motionlex.motion_vae.images.recipes import Recipe, resolve
from motionlex.motion_vae.images.run_curves import ETA, training_curves
from motionlex.scripts.benchmark_images import main

RECIPE = Recipe(method="daps_na", setting="tiny", data="digits", family="bernoulli", width=16, batch=32, steps=100)
FREE = replace(RECIPE, family="gaussian")
TUTORIAL = ("networks.width=16", "one_hot=true", "samples=1", "baseline=constant", "constant_nats=-30")
"""Of the tutorial: one-hot codes, one draw, a constant baseline, here near what digits of 64 pixels reach."""
FINE = replace(RECIPE, family="discretised_logistic", changes=("grid_tokens=16", "variances=unit"))


@pytest.mark.parametrize(
    ("recipe", "margin"),
    [
        (RECIPE, 6.0),
        (replace(RECIPE, method="daps"), 12.0),
        (replace(RECIPE, method="reinforce", resampled=True, changes=TUTORIAL), 12.0),
        (replace(RECIPE, method="gumbel_na"), 10.0),
        (replace(RECIPE, method="gumbel"), 7.0),
        (replace(RECIPE, method="gr_mck_na"), 9.0),
        (replace(RECIPE, method="ppo"), 1.5),
        (replace(RECIPE, method="fsq"), 30.0),
        (replace(RECIPE, method="vqvae"), 30.0),
        (replace(FREE, method="sq_vae"), 150.0),
        (replace(FREE, method="gumbel_vqvae"), 150.0),
        (replace(FREE, method="gm_vq"), 100.0),
        (replace(FINE, method="rrvq"), 40.0),
    ],
    ids=lambda value: value.method if isinstance(value, Recipe) else None,
)
def test_a_hundred_steps_improve_the_elbo(recipe, margin, tmp_path):
    """Seeded, so that the gain is one number; the margin [nat] is below that of three seeds."""
    data = load_image_dataset("digits")
    runs.train_recipe(recipe, tmp_path / "run")
    trained = runs.load_image_run(tmp_path / "run")
    before, after = (
        evaluate_images(model, trained.preprocessing, data.test, family=recipe.family)
        for model in (resolve(recipe, data)[1].build().eval(), trained.model)
    )
    assert after["elbo_nats"] > before["elbo_nats"] + margin and after["psnr_db"] > before["psnr_db"] + 1.0
    if recipe.family != "gaussian":
        assert after["bits_per_dimension"] < before["bits_per_dimension"]


def test_reconstructions_get_better_with_the_bottleneck(tmp_path):
    """Figure 12: from 8 to 64 bits, every size by at least a fifth of a decibel."""
    found = []
    for size in bottleneck_sweep.MNIST_SIZES:
        recipe = replace(
            RECIPE, method="vqvae", setting=size.tiny_setting, changes=(f"vocabulary={size.tiny_codes}",), steps=150
        )
        TrainingJob(row=size.name, slug=size.name, recipe=recipe).run(tmp_path / size.name, "cpu")
        found.append(json.loads((tmp_path / size.name / "evaluation.json").read_text()))
    assert [one["bits_per_segment"] for one in found] == [8, 16, 32, 64]
    assert np.diff([one["psnr_db"] for one in found]).min() > 0.2


def test_a_higher_target_of_the_sample_size_means_a_higher_temperature(tmp_path):
    """Figure 9: weights are flatter, so that more samples count. Fifty steps give one point of the curve."""
    options = Options(
        data="digits", title="digits", shape=(8, 8, 1), data_root=None, steps=50, batch=32, width=16, seeds=(0,),
        images=32, changes=("temperature_control=bisection",),
    )  # fmt: skip
    etas = []
    for target in (0.25, 0.75):
        (job,) = [job for job in BETA_ESS_GRID.jobs(options) if job.row == cell_name(1.0, target)]
        job.run(tmp_path / job.name, "cpu")
        result = json.loads((tmp_path / job.name / "evaluation.json").read_text())
        curves = training_curves(Finished(job=job, result=result, folder=tmp_path / job.name))
        etas.append(float(curves[ETA].values[-1]))
    assert etas[1] > 2.0 * etas[0] > 0.0


def test_the_gumbel_gradient_is_biased_where_the_entropy_is_in_the_middle(tmp_path, monkeypatch):
    """Figure 3: towards certainty both gradients vanish, and their difference with them; mean over five functions."""
    monkeypatch.setattr(gumbel_bias, "TEMPERATURES", (0.03, 1.0))
    distances, entropies = [], []
    for job in gumbel_bias.bias_jobs(
        Options(data="", title="", shape=(1, 1, 1), data_root=None, steps=None, batch=None, width=None,
                seeds=(0, 1, 2, 3, 4), images=None)
    ):  # fmt: skip
        job.run(Path(tmp_path) / job.name, "cpu")
        result = json.loads((tmp_path / job.name / "evaluation.json").read_text())
        distances.append(result["distance_many"])
        entropies.append(result["entropy_nats"])
    low, middle = np.mean(distances, axis=0)
    assert np.max(entropies, axis=0)[0] < 1.0 < np.min(entropies, axis=0)[1] and middle > 3.0 * low


def test_swatches_have_no_spread_and_samples_of_an_untrained_model_do(tmp_path):
    """Figure B.2 on its own images: what is measured of the originals is zero but for the arithmetic."""
    few = ("--rows", "rvqvae", "--steps", "1", "--batch", "4", "--width", "8", "--images", "8")
    assert main(["rrvq-swatches", "--data", "swatches", *few, "--out", str(tmp_path / "out"), "--json"]) == 0
    found = json.loads((tmp_path / "out/jobs/rvqvae_seed0/evaluation.json").read_text())
    assert abs(found["spread_originals_1e3"]) < 1e-3 < found["spread_samples_1e3"]
