"""Costs of methods: parameters as the authors count them, memory of a graph in closed form, a job that measures."""

import pytest
import torch
from torch import nn

from motionlex.motion_vae.images.jobs import Options, read_result
from motionlex.motion_vae.images.overview import CostJob, kept_bytes, network_sizes
from motionlex.motion_vae.images.overview_memory import OVERVIEW_IMAGENET, MemoryJob, extrapolated
from motionlex.motion_vae.images.presets import image_preset
from motionlex.motion_vae.images.recipes import Recipe
from motionlex.motion_vae.registry import build_model


def built(method, setting):
    """An untrained model."""
    preset, shape = image_preset(method, setting)
    return build_model(method, preset.method, shape, seed=0)


def test_parameters_are_counted_as_the_authors_do():
    """156,480 and 267,344 in the authors' modules; ours has a begin symbol of 64 values and DAPS's temperature."""
    assert network_sizes(built("daps", "mnist")) == (156_480 + 64 + 1, 267_344)


def test_the_table_of_rounded_codes_is_part_of_the_generator():
    model = built("fsq", "mnist")
    # 3 coordinates to 64 features, then dense layers 8 x 64 - 64 - 256 - 784, all with biases
    layers = (8 * 64 + 1) * 64 + 65 * 256 + 257 * 784
    assert network_sizes(model)[1] == 4 * 64 + layers
    assert sum(network_sizes(model)) == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("batch", [5, 50])
def test_what_a_graph_keeps_in_closed_form(batch):
    """The input and the activations of both dense layers: the hidden ones once, though two operations need them."""
    network = nn.Sequential(nn.Linear(7, 11), nn.ReLU(), nn.Linear(11, 3))
    x = torch.randn(batch, 7, generator=torch.Generator().manual_seed(0))
    kept = kept_bytes(lambda: network(x).square().sum(), network.parameters())
    assert kept == 4 * batch * (7 + 11 + 3)
    assert kept_bytes(lambda: network(x).detach().square().sum(), network.parameters()) == 0


def test_a_cost_job_measures_and_trains_nothing(tmp_path):
    recipe = Recipe(method="daps", setting="tiny", data="digits", family="bernoulli", width=16, batch=8, steps=2)
    job = CostJob(row="DAPS", slug="daps", recipe=recipe, images=4)
    job.run(tmp_path, "cpu")
    result = read_result(job, tmp_path).result
    assert result["recognition_parameters"] + result["generator_parameters"] == result["parameters"]
    assert result["step_memory_mb"] == pytest.approx(16e-6 * result["parameters"] + result["kept_mb"])  # 4 x float32
    assert result["kept_mb"] > 4e-6 * 8 * 64  # at least the batch itself
    assert result["steps_per_minute"] == pytest.approx(6e4 / result["step_ms"])
    assert min(result[name] for name in ("step_ms", "encode_ms", "sample_ms")) > 0.0 and result["peak_gpu_mb"] is None
    assert result["machine"].startswith("CPU") and "thread" in result["machine"]
    assert [path.name for path in tmp_path.iterdir()] == ["evaluation.json"]


@pytest.mark.parametrize("method", ["daps", "daps_na", "gumbel_na", "gr_mck", "vqvae", "fsq"])
def test_two_small_batches_tell_what_a_large_one_keeps(method):
    """A constant plus as much for every image: the straight line through 1 and 2 images meets 8 exactly."""
    model = built(method, "tiny")
    draws = torch.Generator().manual_seed(0)
    x = (torch.rand(8, 64, 1, generator=draws) > 0.5).float()
    kept = [
        float(kept_bytes(lambda count=count: model.loss(x[:count], draws, progress=1.0).total, model.parameters()))
        for count in (1, 2, 8)
    ]
    assert extrapolated((1, 2), (kept[0], kept[1]), 8) == pytest.approx(kept[2], rel=0.01) and kept[1] > kept[0] > 0


def test_memory_of_a_batch_that_is_never_made(tmp_path):
    """The job measures one image and two; what it says of a batch of 8 is what the cost job measures of it."""
    recipe = Recipe(method="daps", setting="tiny", data="digits", family="bernoulli", width=16, batch=8, steps=2)
    found = []
    for kind in (MemoryJob, CostJob):
        job = kind(row="DAPS", slug="daps", recipe=recipe, images=4)
        job.run(tmp_path / kind.__name__, "cpu")
        found.append(read_result(job, tmp_path / kind.__name__).result)
    small, whole = found
    assert small["step_memory_mb"] == pytest.approx(whole["step_memory_mb"], rel=0.01)
    for name in ("parameters", "recognition_parameters", "generator_parameters", "batch"):
        assert small[name] == whole[name]
    assert small["kept_per_image_mb"] * 8 <= small["kept_mb"] * 1.001 and "step_ms" not in small


def test_imagenet_compares_the_methods_of_its_column_and_gumbel_at_the_papers_sizes():
    options = Options(
        data="imagenet", title="", shape=(256, 256, 3), data_root=None, steps=None, batch=None, width=None, seeds=(0,),
        images=None,
    )  # fmt: skip
    jobs = OVERVIEW_IMAGENET.jobs(options)
    assert {job.recipe.setting for job in jobs} == {"imagenet256"}
    assert sorted(job.recipe.method for job in jobs) == [
        "daps", "daps_na", "fsq", "gr_mck", "gr_mck_na", "gumbel", "gumbel_na", "vqvae",
    ]  # fmt: skip
