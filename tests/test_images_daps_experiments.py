"""Experiments of the DAPS paper on images: what each row trains, and what is counted and drawn."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from motionlex.data.images.dataset import load_image_dataset
from motionlex.data.images.preprocessing import Preprocessing
from motionlex.motion_vae.contract import Codes
from motionlex.motion_vae.images import bottleneck_sweep, code_usage, daps_tables, value_samples
from motionlex.motion_vae.images.code_usage import UsageJob, count_codes, rarer_half_share
from motionlex.motion_vae.images.experiments import get_experiment
from motionlex.motion_vae.images.jobs import Finished, Options, TrainingJob, read_result
from motionlex.motion_vae.images.presets import image_preset
from motionlex.motion_vae.images.recipes import Recipe, resolve
from motionlex.motion_vae.images.runs import TrainedImages
from motionlex.motion_vae.registry import build_model

SHAPES = {"mnist": (28, 28, 1), "cifar10": (32, 32, 3), "digits": (8, 8, 1), "imagenet": (256, 256, 3)}
RECIPE = Recipe(method="vqvae", setting="tiny", data="digits", family="bernoulli", width=16, batch=8, steps=2)


def options(data, **changes):
    """What a user who asks for nothing gets on images of that size."""
    values = {"title": data, "shape": SHAPES[data], "data_root": None, "steps": None, "batch": None}
    values |= {"width": None, "seeds": (0,), "images": None}
    return Options(data=data, **(values | changes))


@pytest.mark.parametrize(
    ("name", "data", "bits"),
    [
        ("bottleneck-sweep", "mnist", [8, 16, 32, 64]),  # captions of figures 12 and 13
        ("bottleneck-sweep-cifar", "cifar10", [36, 144, 384, 576]),
        ("bottleneck-sweep", "digits", [8, 16, 32, 64]),
    ],
)
def test_bottlenecks_have_the_bits_of_the_paper(name, data, bits):
    found = {}
    for job in get_experiment(name).jobs(options(data)):
        shape = image_preset(job.recipe.method, job.recipe.setting)[1]
        (codes,) = [int(change.removeprefix("vocabulary=")) for change in job.recipe.changes]
        found.setdefault(job.recipe.method, []).append(shape.tokens * math.log2(codes))
    assert found == {method: bits for method in ("daps", "vqvae", "gumbel")}


@pytest.mark.parametrize("setting", ["mnist_4", "cifar10_16", "cifar10_4", "tiny_4"])
def test_fewer_tokens_still_cover_the_image(setting):
    """A change of any one token changes what is decoded, and images come back in their size."""
    preset, shape = image_preset("vqvae", setting)
    model = build_model("vqvae", preset.method, shape, seed=0).eval()
    codes = torch.zeros(1, shape.tokens, dtype=torch.long)
    with torch.no_grad():
        base = model.decode_embeddings(model.embed(codes)).mean
        assert base.shape == (1, math.prod(shape.grid), shape.channels)
        for token in range(shape.tokens):
            changed = codes.clone()
            changed[0, token] = 1
            assert not torch.equal(model.decode_embeddings(model.embed(changed)).mean, base)


def test_the_best_of_every_column_is_what_the_paper_prints_in_bold():
    best = {}
    for name in ("CIFAR10", "IMAGENET", "MNIST_BETA1", "CIFAR10_BETA1"):
        column = getattr(daps_tables, name)
        elbo = max((values[0], method) for method, values in column.items() if values[0] is not None)[1]
        best[name] = (elbo, max((values[1], method) for method, values in column.items())[1])
    assert best == {
        "CIFAR10": ("daps", "daps"),
        "IMAGENET": ("daps", "daps"),
        "MNIST_BETA1": ("daps", "gumbel_na"),
        "CIFAR10_BETA1": ("daps", "daps"),
    }


@pytest.mark.parametrize(
    ("name", "data", "beta"),
    [
        ("table1-cifar", "cifar10", 0.01),
        ("table1-imagenet", "imagenet", 1.0),
        ("table2", "mnist", 1.0),
        ("table2-cifar", "cifar10", 1.0),
        ("table2", "digits", 1.0),
        ("table2-cifar", "digits", 1.0),
    ],
)
def test_tables_end_at_the_beta_of_the_paper(name, data, beta):
    jobs = get_experiment(name).jobs(options(data))
    assert len({job.name for job in jobs}) == len(jobs)
    for job in jobs:
        recipe = job.recipe
        config = image_preset(recipe.method, recipe.setting)[0].method
        changed = [float(change.partition("=")[2]) for change in recipe.changes if change.startswith("beta_end")]
        if hasattr(config, "beta_end"):
            assert (changed or [config.beta_end]) == [beta], job.name
        assert ("as_published=true" in recipe.changes) == job.name.endswith("as_published_seed0")
    steps = {"imagenet": 300_000, "digits": 1000}.get(data, 250_000)
    assert {job.recipe.steps for job in jobs} == {steps}


def test_every_number_of_samples_leaves_room_for_its_target():
    for job in get_experiment("value-samples").jobs(options("digits")):
        config = resolve(job.recipe, load_image_dataset("digits"))[1].method_config
        assert 1.0 < config["ess_target"] * config["samples"] < config["samples"]
    assert value_samples.SAMPLES == (2, 4, 8, 16, 32)


def test_curves_of_the_sweep():
    """Two seeds per row; at large the values are 3 and 5, so that the mean is 4 and Student's half width 12.706."""
    groups = {}
    for label in bottleneck_sweep.METHODS.values():
        for place, size in enumerate(bottleneck_sweep.MNIST_SIZES):
            results = [
                {
                    "bits_per_segment": 8.0 * 2**place,
                    "psnr_db": value,
                    "beta_elbo": None if label == "VQ-VAE" else -value,
                }
                for value in (place, 2.0 + place)
            ]
            job = TrainingJob(row=f"{label}, {size.name}", slug="x", recipe=RECIPE)
            groups[job.row] = [Finished(job=job, result=result, folder=Path()) for result in results]
    psnr = bottleneck_sweep.curves(bottleneck_sweep.MNIST_SIZES, groups, "psnr_db")
    assert list(psnr) == ["DAPS", "VQ-VAE", "Gumbel"]
    assert [point[:2] for point in psnr["DAPS"]] == [(8.0, 1.0), (16.0, 2.0), (32.0, 3.0), (64.0, 4.0)]
    assert psnr["DAPS"][3][2] == pytest.approx(12.706, abs=1e-3)
    assert list(bottleneck_sweep.curves(bottleneck_sweep.MNIST_SIZES, groups, "beta_elbo")) == ["DAPS", "Gumbel"]


def test_the_rarer_half():
    assert rarer_half_share(np.array([5, 5, 5, 5])) == pytest.approx(0.5)
    assert rarer_half_share(np.array([0, 6, 2, 0, 2, 0])) == 0.0
    assert rarer_half_share(np.array([1, 7, 9, 3])) == pytest.approx(4.0 / 20.0)


class Clock(torch.nn.Module):
    """Encodes the n-th image of a batch as (n mod 3, 4)."""

    vocabulary = 5

    def __init__(self):
        super().__init__()
        self.anything = torch.nn.Parameter(torch.zeros(()))

    def encode(self, x, generator):
        indices = torch.stack([torch.arange(len(x)) % 3, torch.full((len(x),), 4)], dim=1)
        return Codes(indices=indices, embeddings=torch.zeros(len(x), 2, 1))


def trained_as(model, preprocessing):
    """A run with that model, without a folder."""
    trained = object.__new__(TrainedImages)
    object.__setattr__(trained, "model", model)
    object.__setattr__(trained, "preprocessing", preprocessing)
    return trained


def test_codes_are_counted_over_all_batches():
    trained = trained_as(Clock(), Preprocessing(form="threshold"))
    counts = count_codes(trained, load_image_dataset("digits").test, limit=300, seed=0)
    assert counts.tolist() == [86 + 15, 85 + 15, 85 + 14, 0, 300]  # batches of 256 and 44


def test_a_usage_job_counts_every_token_of_every_image(tmp_path):
    job = UsageJob(row="VQ-VAE", slug="vqvae", recipe=RECIPE, images=40)
    job.run(tmp_path / "job", "cpu")
    result = read_result(job, tmp_path / "job").result
    assert sum(result[code_usage.COUNTS]) == 40 * 16 and len(result[code_usage.COUNTS]) == 16
    assert result["usage"] == pytest.approx(np.count_nonzero(result[code_usage.COUNTS]) / 16)
    assert result["relative_perplexity"] == pytest.approx(result["perplexity"] / 16)
