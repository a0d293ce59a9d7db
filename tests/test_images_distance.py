"""Distances of reconstructions to originals in a network's features: what is compared, when it is left out, FID."""

import json

import numpy as np
import pytest
import torch

from motionlex.data.errors import UserError
from motionlex.data.images.dataset import load_image_dataset
from motionlex.data.images.preprocessing import Preprocessing
from motionlex.motion_vae.images import daps_tables, distance_job, inception
from motionlex.motion_vae.images.distance_job import DISTANCES, DistanceJob, shown
from motionlex.motion_vae.images.experiments import get_experiment
from motionlex.motion_vae.images.jobs import Finished, Options
from motionlex.motion_vae.images.recipes import Recipe
from motionlex.motion_vae.images.runs import TrainedImages
from motionlex.scripts.benchmark_images import main

RECIPE = Recipe(method="vqvae", setting="tiny", data="digits", family="bernoulli", width=16, batch=8, steps=2)
NOTHING = {measure.key: None for measure in DISTANCES}
FEW = ("table1-cifar", "--data", "photographs", "--rows", "fsq", "--steps", "1", "--batch", "4", "--width", "16")
LAYOUT = {
    "Conv2d_1a_3x3.conv.weight": (32, 3, 3, 3),
    "Conv2d_1a_3x3.bn.running_mean": (32,),
    "Conv2d_4a_3x3.bn.weight": (192,),
    "Mixed_5b.branch5x5_1.conv.weight": (48, 192, 1, 1),
    "Mixed_5c.branch_pool.conv.weight": (64, 256, 1, 1),
    "Mixed_6a.branch3x3dbl_3.conv.weight": (96, 96, 3, 3),
    "Mixed_6b.branch7x7_2.conv.weight": (128, 128, 1, 7),
    "Mixed_6e.branch7x7dbl_2.conv.weight": (192, 192, 7, 1),
    "Mixed_7a.branch7x7x3_4.conv.weight": (192, 192, 3, 3),
    "Mixed_7b.branch3x3_2a.conv.weight": (384, 384, 1, 3),
    "Mixed_7c.branch3x3dbl_3b.bn.running_var": (384,),
    "Mixed_7c.branch_pool.bn.bias": (192,),
    "fc.weight": (1008, 2048),
    "fc.bias": (1008,),
}
"""Some of the names and shapes of pytorch-fid's file, written by hand."""


def trained_as(model, preprocessing):
    """A run with that model, without a folder."""
    trained = object.__new__(TrainedImages)
    object.__setattr__(trained, "model", model)
    object.__setattr__(trained, "preprocessing", preprocessing)
    return trained


class Grey(torch.nn.Module):
    """Reconstructs every image as the mean of the training split: zero in standardised colours."""

    def __init__(self):
        super().__init__()
        self.anything = torch.nn.Parameter(torch.zeros(()))

    def encode(self, x, generator):
        return x

    def decode(self, codes):
        return torch.distributions.Normal(torch.zeros_like(codes), 1.0)


class Contrast(torch.nn.Module):
    """Features that are 2 for all pictures and 1/2 for plain colours."""

    def forward(self, images):
        return torch.where((images.std(dim=(2, 3)) > 1e-6).any(dim=1, keepdim=True), 2.0, 0.5)


def standardised():
    return trained_as(Grey(), Preprocessing(form="standardise", mean=(0.2, 0.3, 0.4), deviation=(0.1, 0.2, 0.3)))


def test_originals_and_reconstructions_are_compared_on_the_unit_interval():
    data = load_image_dataset("photographs")
    original, decoded = (
        torch.cat(list(shown(standardised(), data.test, reconstruct=which, limit=70, seed=0)))
        for which in (False, True)
    )
    rows = np.arange(70) * len(data.test) // 70  # at equal distances
    pixels = data.test.read(rows).reshape(70, -1, 3) / 255.0
    assert np.abs(original.numpy() - pixels).max() < 1e-6  # float32
    assert torch.equal(decoded, torch.tensor([0.2, 0.3, 0.4]).expand(70, 1024, 3))


def test_the_distance_is_left_out_where_it_means_nothing_or_cannot_be_had(tmp_path, monkeypatch, caplog):
    def missing(name):
        raise UserError(f"{name} is optional: install it")

    monkeypatch.setattr(distance_job, "load_features", missing)
    job = DistanceJob(row="VQ-VAE", slug="vqvae", recipe=RECIPE, images=8)
    trained = trained_as(Grey(), Preprocessing(form="unit"))
    assert job.further(trained, load_image_dataset("digits"), tmp_path) == NOTHING and not caplog.text
    assert job.further(trained, load_image_dataset("photographs"), tmp_path) == NOTHING
    assert "efflite0 is optional: install it" in caplog.text


@pytest.mark.parametrize("weights", [None, "weights.pth"])
def test_the_distances_are_those_of_the_features(weights, tmp_path, monkeypatch):
    """Constant features a = 2 and b = 1/2: the unbiased estimate is k(a, a) + k(b, b) - 2 k(a, b) in every block, with
    k(x, y) = (x y / 1 + 1)^3, and the Frechet distance of two points is (a - b)^2."""
    asked = []
    monkeypatch.setattr(distance_job, "load_features", lambda *given: asked.append(given) or Contrast())
    job = DistanceJob(row="VQ-VAE", slug="vqvae", recipe=RECIPE, images=8, inception=weights)
    found = job.further(standardised(), load_image_dataset("photographs"), tmp_path)
    kernel = 5.0**3 + 1.25**3 - 2.0 * 2.0**3
    wanted = {"kid_efflite0": kernel, "kid_efflite0_error": 0.0, "fd_efflite0": 2.25, "efflite0_images": 8}
    if weights is None:
        wanted |= {"kid": None, "kid_error": None, "fid": None}
    else:
        wanted |= {"kid": kernel, "kid_error": 0.0, "fid": 2.25, "fid_images": 8}
    assert found == pytest.approx(wanted)
    assert [str(given[0]) for given in asked] == ["efflite0"] + (["inception"] if weights else [])


def test_three_images_are_too_few_for_a_distance_and_the_rest_is_measured(tmp_path, caplog):
    """Blocks of two on both sides: the standard error needs four images."""
    assert main([*FEW, "--images", "3", "--out", str(tmp_path / "out"), "--json"]) == 0
    found = json.loads((tmp_path / "out/jobs/fsq_seed0/evaluation.json").read_text())
    assert {name: found[name] for name in NOTHING} == NOTHING and found["psnr_db"] > 0.0 and found["images"] == 3
    assert "it needs at least 4 images, and --images leaves 3" in caplog.text


def test_one_command_gives_a_finite_kid_without_weights(tmp_path):
    pytest.importorskip("efficientnet_lite_pytorch")
    assert main([*FEW, "--images", "8", "--out", str(tmp_path / "out"), "--json"]) == 0
    found = json.loads((tmp_path / "out/jobs/fsq_seed0/evaluation.json").read_text())
    assert found["efflite0_images"] == 8 and found["kid_efflite0"] > 0.0  # far from an untrained model's grey
    assert all(np.isfinite(found[name]) for name in ("kid_efflite0_error", "fd_efflite0")) and found["fid"] is None


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file in the layout of pytorch-fid: weights of a seed, but for the names above, which have values of their own
    where they are large enough to tell."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        state = {
            name: value
            for name, value in inception.Inception().state_dict().items()
            if not name.endswith("num_batches_tracked")
        }
    generator = torch.Generator().manual_seed(1)
    named = {name: 0.1 * torch.rand(shape, generator=generator) for name, shape in LAYOUT.items()}
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.save({**state, **named}, path)
    return path, named


def test_weights_of_the_published_layout_reach_their_layers(weights):
    """A name or a shape of ours that differs from the file's is refused, or leaves other values in the network."""
    path, named = weights
    loaded = inception.load_inception(path).state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in named.items()) and len(named) == 14


def test_fid_by_one_command(weights, tmp_path, capsys):
    flags = (*FEW, "--images", "4", "--out", str(tmp_path / "out"), "--json")
    assert main([*flags, "--inception", str(weights[0])]) == 0
    found = json.loads((tmp_path / "out/jobs/fsq_seed0/evaluation.json").read_text())
    assert found["fid_images"] == 4 and found["fid"] > 0.0
    assert np.isfinite(found["kid"]) and np.isfinite(found["kid_error"])
    capsys.readouterr()
    assert main(flags) == 2 and "belongs to another experiment: inception True there" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "data", "shape", "wanted"),
    [
        ("table1-cifar", "cifar10", (32, 32, 3), {"DAPS": 157.27, "FSQ": 163.0, "PPO": 176.29, "VQ-VAE": 164.3}),
        ("table1-imagenet", "imagenet", (256, 256, 3), {"DAPS": 48.65, "DAPS-NA": 57.43, "FSQ": 54.54}),
        ("table2-cifar", "cifar10", (32, 32, 3), {"DAPS": 158.61, "Gumbel-NA": 163.98}),
    ],
)
def test_the_papers_fid_stands_beside_ours(name, data, shape, wanted, tmp_path):
    options = Options(
        data=data, title=data, shape=shape, data_root=None, steps=1, batch=None, width=None, seeds=(0,), images=None,
        inception="/somewhere/weights.pth",
    )  # fmt: skip
    experiment = get_experiment(name)
    jobs = experiment.jobs(options)
    assert {job.inception for job in jobs} == {"/somewhere/weights.pth"}
    result = {measure.key: 1.0 for measure in daps_tables.COLOUR_MEASURES}
    result |= {"fid": 123.4, "steps": 1, "batch": 2, "parameters": 3, "images": 10}
    finished = [Finished(job=job, result=result, folder=tmp_path) for job in jobs]
    text, plain, _ = experiment.report(options, finished, tmp_path)
    beside = {row["row"]: row["measures"]["fid"] for row in plain["rows"]}
    assert {row: beside[row]["paper"] for row in wanted} == wanted
    assert {cell["mean"] for cell in beside.values()} == {123.4}
    assert text.index("KID-EffLite0") < text.index("FD-EffLite0") < text.index("| FID |")
