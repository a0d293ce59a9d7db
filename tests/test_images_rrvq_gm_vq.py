"""Further experiments of RRVQ-VAE and GM-VQ: what their rows set, and why samples of spatial latents are patchwork."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from motionlex.data.errors import UserError
from motionlex.data.images.dataset import load_image_dataset
from motionlex.motion_vae.images.compression import RRVQ_COMPRESSION
from motionlex.motion_vae.images.gm_vq_experiments import (
    CELEBA,
    CIFAR10,
    GM_VQ_ENTROPY,
    GM_VQ_TABLE1_CELEBA,
    GM_VQ_VARIANTS,
    GM_VQ_VARIANTS_CELEBA,
)
from motionlex.motion_vae.images.jobs import Finished, Options
from motionlex.motion_vae.images.presets import image_preset
from motionlex.motion_vae.images.recipes import Recipe, resolve, run_config
from motionlex.motion_vae.images.rrvq_experiments import RRVQ_ABLATION, RRVQ_DEEP, RRVQ_TABLE1, TrainingBitsJob
from motionlex.motion_vae.images.swatches import RRVQ_SWATCHES, spread
from motionlex.motion_vae.registry import build_model, override


def options(data, shape, **changes):
    values = {"data_root": None, "steps": None, "batch": None, "width": None, "seeds": (0,), "images": None}
    return Options(data=data, title=data, shape=shape, **{**values, **changes})


@pytest.fixture(scope="module")
def photographs():
    return load_image_dataset("photographs")


def found(**values):
    """What a job wrote, zero where it does not matter."""
    others = ("elbo_nats", "psnr_db", "usage", "perplexity")
    return {"steps": 1, "batch": 2, "parameters": 3, "images": 4, **dict.fromkeys(others, 0.0), **values}


def configurations(experiment, data, **changes):
    """What the rows of an experiment set: method's configuration by row."""
    jobs = experiment.jobs(options(data.name, data.shape, **changes))
    return {job.row: resolve(job.recipe, data)[1] for job in jobs}


def test_swatches_are_nine_plain_colours():
    data = load_image_dataset("swatches")
    for split in (data.train, data.test):
        pixels = split.read(np.arange(len(split)))
        assert pixels.shape[1:] == data.shape == (32, 32, 3)
        assert (pixels == pixels[:, :1, :1]).all()
        colours = np.unique(pixels[:, 0, 0], axis=0).astype(int)
        assert len(colours) == len(data.classes) == 9 and np.bincount(split.labels).tolist() == [len(split) // 9] * 9
        apart = np.abs(colours[:, None] - colours[None]).max(axis=-1)
        assert apart[~np.eye(9, dtype=bool)].min() >= 64  # a quarter of the range: nobody takes one for another


def test_spread_of_known_images():
    swatch = torch.tensor([0.2, 0.9, 0.4]).expand(1, 16, 3)
    halves = torch.cat([torch.zeros(1, 8, 3), torch.ones(1, 8, 3)], dim=1)
    assert spread(swatch) == pytest.approx(0.0, abs=1e-7) and spread(halves) == pytest.approx(0.5)
    assert spread(torch.cat([swatch, halves])) == pytest.approx(0.25)
    one_colour = halves * torch.tensor([1.0, 0.0, 0.0])
    assert spread(one_colour) == pytest.approx(0.5 / 3.0)


def test_a_convolutional_token_reaches_its_neighbours_and_a_dense_one_the_whole_image(photographs):
    """The paper's explanation of patchwork. 5 convolutions of radius 1 reach 5 tokens, i.e. 10 pixels and the last
    kernel's edge; beyond that a token of the convolutional model must change nothing at all."""
    rows = configurations(RRVQ_SWATCHES, photographs)
    changed = {}
    for name in ("rVQ-VAE, convolutional", "rVQ-VAE, MLP"):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = rows[name].build().eval()
        codes = torch.zeros(2, model.tokens, dtype=torch.long)
        codes[1, 0] = 1  # the token of the upper left corner
        with torch.no_grad():
            first, second = model.decode_embeddings(model.embed(codes)).mean.unflatten(1, (32, 32))
        changed[name] = (first != second).any(dim=-1)
    near = changed["rVQ-VAE, convolutional"]
    assert near[0, 0] and not near[13:].any() and not near[:, 13:].any()
    assert changed["rVQ-VAE, MLP"].all()


def test_swatches_take_the_sizes_of_the_paper(photographs):
    rows = configurations(RRVQ_SWATCHES, photographs)
    for name, grid in (("rVQ-VAE, convolutional", [256]), ("rVQ-VAE, MLP", [1])):
        method = rows[name].method_config
        assert (method["vocabulary"], method["embedding_width"], method["variances"]) == (16, 16, "unit")
        assert list(method["grid_tokens"]) == grid and method["ladder"] == {
            "width": 32,
            "blocks": 2,
            "ladder_blocks": 0,
        }
    gaussian = rows["Spatial-VAE"].method_config
    assert gaussian["latent_width"] == 16 and list(gaussian["grid_tokens"]) == [256]
    assert gaussian["ladder"]["width"] == 32 and gaussian["ladder"]["blocks"] == 2
    assert list(rows["RRVQ-VAE, L = 5"].method_config["grid_tokens"]) == [256, 64, 16, 4, 1]
    assert {config.optimisation.steps for config in rows.values()} == {5000}
    assert {c.optimisation.steps for c in configurations(RRVQ_SWATCHES, photographs, steps=7).values()} == {7}


def test_compression_takes_the_model_that_fits_the_images(photographs):
    settings = {
        shape: RRVQ_COMPRESSION.jobs(options("anything", shape))[0].recipe.setting
        for shape in ((64, 64, 3), (32, 32, 3), (8, 8, 1))
    }
    assert list(settings.values()) == ["celeba64_rrvq", "cifar10_rrvq", "tiny"]
    with pytest.raises(UserError, match="for images of 64 x 64 x 3"):
        RRVQ_COMPRESSION.jobs(options("mnist", (28, 28, 1)))
    preset, domain = image_preset("rrvq", "celeba64_rrvq")
    assert preset.method.bits == 341 * 7  # the paper: 256 * 7 + 64 * 6 + 16 * 5 + 4 * 4 + 3 = 2,275
    assert domain.grid == (64, 64)


def test_the_ablation_changes_what_it_says():
    rows = {job.row: job.recipe.changes for job in RRVQ_ABLATION.jobs(options("digits", (8, 8, 1)))}
    preset, domain = image_preset("rrvq", "tiny")
    outputs, learned = {}, {}
    for name, changes in rows.items():
        sizes = ("ladder.width=8", "ladder.blocks=1", "embedding_width=8", *changes)
        model = build_model("rrvq", override(preset, sizes).method, domain, seed=0)
        outputs[name] = model.ladder.pstrap[0][-1].weight.shape[0:2]
        learned[name] = model.log_variances is not None
    assert [name for name, is_learned in learned.items() if is_learned] == [
        "Direct-Cat, sigma learnt",
        "Embedding-Cat, sigma learnt (RRVQ)",
    ]
    for name, shape in outputs.items():  # p directly: one logit for each of 16 codes; else 8 values of an embedding
        assert set(shape) == ({8, 16} if name.startswith("Direct") else {8})


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        ("cifar10", (4.65, 4.40, 5.10, 5.08)),
        ("svhn", (2.96, 3.02, None, None)),
        ("photographs", (4.65, 4.40, 5.10, 5.08)),
    ],
)
def test_the_paper_beside_ours_is_that_of_the_data_set(data, wanted, tmp_path):
    chosen = options(data, (32, 32, 3), steps=1)
    result = found(bits_per_dimension=6.0, train_bits_per_dimension=5.9)
    finished = [Finished(job=job, result=result, folder=tmp_path) for job in RRVQ_ABLATION.jobs(chosen)]
    text, plain, _ = RRVQ_ABLATION.report(chosen, finished, tmp_path)
    cells = {row["row"]: row["measures"] for row in plain["rows"]}
    beside = tuple(
        cells[row][key]["paper"]
        for row in ("Embedding-Cat, sigma learnt (RRVQ)", "Direct-Cat, sigma learnt")
        for key in ("bits_per_dimension", "train_bits_per_dimension")
    )
    assert beside == wanted and ("no comparison here" in text) == (data == "photographs")


@pytest.mark.parametrize(
    ("data", "shape", "wanted"),
    [
        ("cifar10", (32, 32, 3), ((4.65, 4.40), (4.77, 4.87))),
        ("svhn", (32, 32, 3), ((2.96, 3.02), (3.73, 4.17))),
        ("celeba64", (64, 64, 3), ((None, None), (5.31, 5.31))),
        ("photographs", (32, 32, 3), ((4.65, 4.40), (4.77, 4.87))),
    ],
)
def test_the_baseline_has_the_papers_values_of_all_three_sets(data, shape, wanted, tmp_path):
    """Table G.1 and table 1, test before training; the order of the paper's columns is the other way round in G.1."""
    chosen = options(data, shape, steps=1)
    result = found(bits_per_dimension=6.0, train_bits_per_dimension=5.9, ssim=0.5)
    finished = [Finished(job=job, result=result, folder=tmp_path) for job in RRVQ_TABLE1.jobs(chosen)]
    text, plain, _ = RRVQ_TABLE1.report(chosen, finished, tmp_path)
    cells = {row["row"]: row["measures"] for row in plain["rows"]}
    keys = ("bits_per_dimension", "train_bits_per_dimension")
    assert tuple(tuple(cells[row][key]["paper"] for key in keys) for row in ("RRVQ-VAE", "rVQ-VAE")) == wanted
    assert ("no comparison here" in text) == (data == "photographs")


@pytest.mark.parametrize(
    ("experiment", "data", "shape", "epochs", "images", "patience"),
    [
        (RRVQ_TABLE1, "cifar10", (32, 32, 3), 500, 50_000, 20),
        (RRVQ_TABLE1, "svhn", (32, 32, 3), 500, 73_257, 20),
        (RRVQ_TABLE1, "celeba64", (64, 64, 3), 160, 162_770, 5),
        (RRVQ_ABLATION, "svhn", (32, 32, 3), 500, 73_257, 20),
        (RRVQ_DEEP, "svhn", (32, 32, 3), 500, 73_257, 20),
        (RRVQ_COMPRESSION, "celeba64", (64, 64, 3), 160, 162_770, 5),
        (RRVQ_COMPRESSION, "svhn", (32, 32, 3), 500, 73_257, 20),
    ],
)
def test_epochs_and_plateaus_are_those_of_appendix_c(experiment, data, shape, epochs, images, patience):
    """Batches of 64; a validation per epoch, so that the patience is in epochs: 781, 1,144 and 2,543 batches."""
    for job in experiment.jobs(options(data, shape)):
        rule = image_preset("rrvq", job.recipe.setting)[0].optimisation
        assert rule.batch == 64 and rule.plateau_patience == patience and rule.plateau_factor == 0.8
        assert rule.validation_steps == {50_000: 781, 73_257: 1144, 162_770: 2543}[images]
        assert 0 <= images - 64 * rule.validation_steps < 64 and job.recipe.steps == epochs * rule.validation_steps
        assert job.recipe.steps in (390_500, 572_000, 406_880)
        assert (rule.learning_rate, rule.plateau_floor, rule.optimiser) == (8e-4, 5e-5, "adamax")


def test_training_images_are_measured_too(tmp_path):
    """The same number on other images: a loss of 8 bits is that of uniform bytes, and two steps change little."""
    recipe = Recipe(
        method="rrvq", setting="tiny", data="digits", family="discretised_logistic", steps=2, batch=8, width=8,
        changes=("grid_tokens=16", "variances=unit"),
    )  # fmt: skip
    TrainingBitsJob(row="a", slug="a", recipe=recipe, images=8).run(tmp_path / "run", "cpu")
    found = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert found["images"] == 8 and 5.0 < found["train_bits_per_dimension"] < 9.0
    assert found["train_bits_per_dimension"] != found["bits_per_dimension"]


def test_deep_models_have_eight_layers_on_each_of_four_grids(photographs):
    for config in configurations(RRVQ_DEEP, photographs).values():
        assert list(config.method_config["grid_tokens"]) == [256] * 8 + [64] * 8 + [16] * 8 + [4] * 8
        assert config.method_config["ladder"]["width"] == 256


@pytest.mark.parametrize("name", ["photographs", "digits"])
def test_rows_of_gm_vq_are_the_options_of_their_names(name):
    data = load_image_dataset(name)
    found = configurations(GM_VQ_VARIANTS, data)
    rows = {row: config.method_config for row, config in found.items() if row.startswith("VQ-VAE + ")}
    for row, method in rows.items():
        parts = row.removeprefix("VQ-VAE + ").split(" + ")
        assert method["l2_normalise"] == ("l2" in parts) and method["affine"] == ("Affine" in parts)
        assert method["alternate"] == ("OPT" in parts)
        assert (method["replace_dead"] != "never") == ("replace" in parts or name == "digits")
    assert len(rows) == 6 and {found[row].method for row in found} == {"vqvae", "sq_vae", "gm_vq"}
    betas = [config.method_config["beta"] for config in configurations(GM_VQ_ENTROPY, data).values()]
    assert betas == sorted(betas) and {0.0, 1.0} < set(betas)
    assert found["GM-VQ + Entropy"].method_config["beta"] in betas


def test_the_columns_of_gm_vq_are_those_of_its_table():
    """Sums over the eleven rows, added up apart from the printed table, and its best row."""
    for column, error, perplexity in ((CIFAR10, 45.81, 2860.9), (CELEBA, 66.92, 4108.1)):
        assert sum(values[0] for values in column.values()) == pytest.approx(error)
        assert sum(values[1] for values in column.values()) == pytest.approx(perplexity)
        assert min(column, key=lambda row: column[row][0]) == "gm_vq_entropy" and len(column) == 11


def test_celeba_takes_faces_of_128_pixels(tmp_path):
    """Both tables together hold every row once; one loss at the full size of the images, at reduced width."""
    chosen = options("celeba128", (128, 128, 3), width=8, batch=2)
    jobs = [*GM_VQ_TABLE1_CELEBA.jobs(chosen), *GM_VQ_VARIANTS_CELEBA.jobs(chosen)]
    assert sorted(job.slug for job in jobs) == sorted(CELEBA)
    for job in jobs:
        assert (job.recipe.setting, job.recipe.steps) == ("celeba128_gm_vq", 100 * (162_770 // 256))
    config, shape = run_config(replace(jobs[0].recipe, changes=("vocabulary=16",)))
    model = config.build()
    x = torch.rand(2, 128 * 128, 3, generator=torch.Generator().manual_seed(0))
    assert shape.tokens == 256 and torch.isfinite(model.loss(x, torch.Generator().manual_seed(0), progress=0.5).total)
    finished = [
        Finished(job=job, result=found(mse_1e3=2.0, posterior_perplexity_per_batch=9.0), folder=tmp_path)
        for job in jobs
    ]
    text, plain, _ = GM_VQ_TABLE1_CELEBA.report(chosen, finished[:3], tmp_path)
    beside = {row["row"]: row["measures"]["mse_1e3"]["paper"] for row in plain["rows"]}
    assert beside == {"GM-VQ": 1.38, "VQ-VAE": 10.02, "Gumbel-VQVAE": 7.34} and "no comparison here" not in text


def test_a_box_over_seeds_for_every_weight(tmp_path):
    chosen = options("digits", (8, 8, 1), seeds=(0, 1, 2), steps=1)
    finished = [
        Finished(
            job=job,
            result=found(mse_1e3=3.0 + 0.1 * job.seed, posterior_perplexity_per_batch=700.0 + job.seed),
            folder=tmp_path,
        )
        for job in GM_VQ_ENTROPY.jobs(chosen)
    ]
    _, plain, files = GM_VQ_ENTROPY.report(chosen, finished, tmp_path)
    assert [row["measures"]["mse_1e3"]["mean"] for row in plain["rows"]] == pytest.approx([3.1] * len(plain["rows"]))
    assert {Path(file).name for file in files} >= {"entropy_boxes.png"}


@pytest.mark.parametrize("method", ["gm_vq", "gumbel_vqvae", "sq_vae", "vqvae"])
def test_probabilities_of_codes_are_those_of_the_definition(method):
    """From latents and codebook by numpy: squared distances, weighted or not, or plain logits; or one-hot."""
    data = load_image_dataset("digits")
    recipe = Recipe(method=method, setting="tiny", data="digits", family="gaussian", width=16, batch=8, steps=1)
    model = run_config(recipe)[0].build().eval()
    x = torch.rand(5, 64, data.shape[2], generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        given = model.code_probabilities(x).numpy()
        codes = model.code_indices(x).numpy()
        book = model.codebook.double().numpy()
        if method == "gm_vq":
            latents, weights = (part.double().numpy() for part in model.latents(x))
            logits = -0.5 * (weights[:, :, None] * (latents[:, :, None] - book) ** 2).sum(-1)
        elif method == "sq_vae":
            latents, variance = model.encoder(x).double().numpy(), model.log_variance.double().exp().item()
            logits = -0.5 * ((latents[:, :, None] - book) ** 2).sum(-1) / variance
        elif method == "gumbel_vqvae":
            logits = model.output(model.encoder(x)).double().numpy()
        else:
            logits = np.where(np.eye(len(book))[codes] > 0, 0.0, -np.inf)
    expected = np.exp(logits - logits.max(-1, keepdims=True))
    np.testing.assert_allclose(given, expected / expected.sum(-1, keepdims=True), atol=1e-5)
    assert (given.argmax(-1) == codes).all()
