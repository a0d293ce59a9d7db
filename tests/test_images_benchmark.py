"""Image experiments from one command on the built-in digits: tables, shards, kills, bad input; models that learn."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from image_files import write
from torch.distributions import Bernoulli, Independent

from motionlex.data.errors import UserError
from motionlex.data.images.dataset import load_image_dataset
from motionlex.data.images.preprocessing import Preprocessing
from motionlex.motion_vae import checkpoint
from motionlex.motion_vae.autoencoders import QuantisedAutoencoder
from motionlex.motion_vae.contract import Codes, DiscreteAutoencoder
from motionlex.motion_vae.images import gumbel_bias, runs
from motionlex.motion_vae.images.evaluation import evaluate_images, tiled
from motionlex.motion_vae.images.experiments import available_experiments
from motionlex.motion_vae.images.mlp import dense_layers
from motionlex.motion_vae.images.recipes import Recipe, resolve
from motionlex.motion_vae.registry import domain_from_plain
from motionlex.motion_vae.trainer import Trainer
from motionlex.scripts.benchmark_images import main

FEW = ("--data", "digits", "--steps", "2", "--batch", "8", "--width", "16", "--images", "16")
NO_DATA, NOTHING_TRAINED = {"gumbel-bias"}, {"overview-imagenet"}
RECIPE = Recipe(method="daps_na", setting="tiny", data="digits", family="bernoulli", width=16, batch=32, steps=2)


@pytest.fixture(autouse=True)
def few_temperatures(monkeypatch):
    """Three entropies instead of 25."""
    monkeypatch.setattr(gumbel_bias, "TEMPERATURES", (0.3, 1.0, 3.0))


def run(capsys, *argv):
    """The command's exit code, its JSON object (None on failure), and what it said."""
    code = main([*argv, "--json"])
    said = capsys.readouterr()
    return code, json.loads(said.out.splitlines()[-1]) if code == 0 else None, said.err


@pytest.mark.parametrize("name", available_experiments())
def test_every_experiment_starts_from_one_command(name, tmp_path, capsys):
    flags = () if name in NO_DATA else FEW
    code, result, said = run(capsys, name, *flags, "--out", str(tmp_path / "out"))
    assert code == 0, said
    assert result["left"] == 0 and all(job["finished"] for job in result["jobs"])
    pictures = [path for path in result["files"] if path.endswith(".png")]
    for path in pictures:
        assert open(path, "rb").read(8) == b"\x89PNG\r\n\x1a\n"
    assert pictures and json.loads((tmp_path / "out" / "table.json").read_text()) == result["table"]
    text = (tmp_path / "out" / "table.md").read_text()
    for row in result["table"]["rows"]:
        if name not in NO_DATA:
            steps = 0 if name in NOTHING_TRAINED else 2
            assert (row["steps"], row["batch"], row["seeds"]) == (steps, 8, [0]), row
            assert f"| {row['row']} | {steps} |" in text
            assert any(cell["mean"] is not None for cell in row["measures"].values())
    if name not in NO_DATA:
        assert "reduced to width 16" in text and "digits (8 x 8)" in text and "no comparison here" in text
        _check_table_of_one_row(name, tmp_path / "out", result, capsys)


def _check_table_of_one_row(name, out, whole, capsys):
    """As when nothing but its last row had been run."""
    rows = whole["table"]["rows"]
    *others, last = [job["name"] for job in whole["jobs"]]
    for job in others:
        (out / "jobs" / job / "evaluation.json").unlink()
    code, result, said = run(capsys, name, *FEW, "--out", str(out), "--rows", last.removesuffix("_seed0"))
    assert code == 0, said
    assert result["left"] == len(others) and result["table"]["rows"] == rows[-1:]
    assert result["table"]["unfinished"] == [row["row"] for row in rows[:-1]]
    text = (out / "table.md").read_text()
    assert all(f"| {row['row']} | " not in text for row in rows[:-1]) and f"| {rows[-1]['row']} | " in text
    assert not others or f"Not finished: {rows[0]['row']}" in text


def test_shards_and_a_single_call_give_the_same_table(tmp_path, capsys):
    together, parts = tmp_path / "together", tmp_path / "parts"
    assert run(capsys, "rrvq-table1", *FEW, "--seeds", "2", "--out", str(together))[1]["left"] == 0
    _, first, _ = run(capsys, "rrvq-table1", *FEW, "--seeds", "2", "--out", str(parts), "--shard", "2/3")
    assert [job["finished"] for job in first["jobs"]] == [False, True, False, False]  # the second, then the fifth
    assert first["left"] == 3 and first["files"] == [] and not (parts / "table.md").exists()
    _, second, _ = run(capsys, "rrvq-table1", *FEW, "--seeds", "2", "--out", str(parts), "--shard", "1/3")
    assert [job["finished"] for job in second["jobs"]] == [True, True, False, True]
    assert run(capsys, "rrvq-table1", *FEW, "--seeds", "2", "--out", str(parts))[1]["left"] == 0
    for name in ("table.md", "table.json"):
        assert (parts / name).read_bytes() == (together / name).read_bytes()
    assert "±" in (parts / "table.md").read_text()


def test_named_rows_are_run_and_the_rest_is_left(tmp_path, capsys):
    flags = ("rrvq-table1", *FEW, "--seeds", "2", "--out", str(tmp_path / "out"))
    code, result, _ = run(capsys, *flags, "--rows", "rvqvae")
    assert code == 0 and result["left"] == 2
    assert [job["name"] for job in result["jobs"] if job["finished"]] == ["rvqvae_seed0", "rvqvae_seed1"]
    assert [row["seeds"] for row in result["table"]["rows"]] == [[0, 1]]
    listed = run(capsys, *flags, "--rows", "rvqvae", "--jobs-list")[1]["jobs"]
    assert [job["name"] for job in listed] == ["rvqvae_seed0", "rvqvae_seed1"]


def test_a_changed_setting_reaches_every_row_that_has_it_and_the_table(tmp_path, capsys):
    flags = ("gm-vq-table1", *FEW, "--out", str(tmp_path / "out"))
    assert run(capsys, *flags, "--set", "mixture_variance=0.3", "learning_rate=0.004")[1]["left"] == 0
    recipes = {
        job: json.loads((tmp_path / f"out/jobs/{job}_seed0/config.json").read_text()) for job in ("gm_vq", "vqvae")
    }
    assert recipes["gm_vq"]["method_config"]["mixture_variance"] == 0.3
    assert "mixture_variance" not in recipes["vqvae"]["method_config"]
    assert [recipe["optimisation"]["learning_rate"] for recipe in recipes.values()] == [0.004, 0.004]
    assert "Changed where a row has it: mixture_variance=0.3" in (tmp_path / "out/table.md").read_text()
    code, _, said = run(capsys, *flags)
    assert code == 2 and "belongs to another experiment: changes" in said


def test_finished_jobs_of_another_recipe_get_into_no_table(tmp_path, capsys):
    """As they are where a version changed the recipe in between."""
    flags = ("gm-vq-table1", *FEW, "--out", str(tmp_path / "out"))
    assert run(capsys, *flags, "--rows", "vqvae")[0] == 0
    path = tmp_path / "out/jobs/vqvae_seed0/config.json"
    config = json.loads(path.read_text())
    config["method_config"]["kmeans_start"] = False
    path.write_text(json.dumps(config))
    code, _, said = run(capsys, *flags)
    assert code == 2 and "vqvae_seed0 holds a run of another recipe" in said
    assert not (tmp_path / "out/jobs/gm_vq_seed0").exists()


@pytest.mark.parametrize("name", ["gm-vq-table1", "gumbel-bias"])
def test_a_setting_that_no_row_has_claims_no_folder(tmp_path, capsys, name):
    few = FEW if name == "gm-vq-table1" else ()
    code, _, said = run(capsys, name, *few, "--out", str(tmp_path / "out"), "--set", "mixture_varianse=1")
    assert code == 2 and "--set" in said and not (tmp_path / "out").exists()


def test_a_row_that_does_not_exist_claims_no_folder(tmp_path, capsys):
    assert run(capsys, "rrvq-table1", *FEW, "--out", str(tmp_path / "out"), "--rows", "rvq")[0] == 2
    assert not (tmp_path / "out").exists()


def test_a_killed_grid_continues_exactly_where_it_stopped(tmp_path, capsys, monkeypatch):
    flags = ("gm-vq-table1", "--data", "digits", "--steps", "7", "--batch", "8", "--width", "16", "--images", "16")
    assert run(capsys, *flags, "--out", str(tmp_path / "whole"))[0] == 0
    monkeypatch.setattr(runs, "CHECKPOINT_STEPS", 3)
    step, calls = Trainer.step, []

    def dying(self):
        calls.append(self.steps)
        if len(calls) == 12:  # in the sixth step of the second job, two after its checkpoint
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(Trainer, "step", dying)
    code, _, said = run(capsys, *flags, "--out", str(tmp_path / "killed"))
    assert code == 2 and "stopped in job vqvae_seed0; the same command continues" in said
    assert calls == [*range(7), *range(5)]
    calls[:] = [-1] * 100  # no further death
    code, result, _ = run(capsys, *flags, "--out", str(tmp_path / "killed"))
    assert code == 0 and result["left"] == 0
    assert calls[100:] == [*range(3, 7), *range(7)]  # from the checkpoint; the first job is not touched
    assert (tmp_path / "killed/table.json").read_bytes() == (tmp_path / "whole/table.json").read_bytes()
    for file in ("weights.safetensors", "config.json", "preprocessing.json"):
        path = f"jobs/vqvae_seed0/{file}"
        assert (tmp_path / "killed" / path).read_bytes() == (tmp_path / "whole" / path).read_bytes()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ((), "no experiment given. Available: table1: DAPS"),
        (("tabel1",), "unknown experiment 'tabel1'. Did you mean 'table1'? Available: beta-ess-grid, bottleneck-sweep"),
        (("table1", "--shard", "5/4"), "--shard wants i/n with i from 1 to n, e.g. 2/4, got '5/4'"),
        (("table1", "--shard", "0/4"), "got '0/4'"),
        (("table1", "--shard", "half"), "got 'half'"),
        (("table1", "--data", "digits", "--rows", "dasp"), "unknown row 'dasp'. Did you mean 'daps'?"),
        (("table1", "--data", "mnist"), "data set 'mnist' needs a folder: give --data-root PATH or set"),
        (("table1", "--data", "minst"), "unknown image data set 'minst'. Did you mean 'mnist'?"),
        (("table1", "--data-root", "/no/such/folder"), "no such folder: /no/such/folder"),
        (
            ("table1", "--data", "photographs"),
            "its images are of 32 x 32 x 3, this experiment is for images of 28 x 28",
        ),
        (("table1", "--data", "digits", "--steps", "0"), "--steps must be positive"),
        (("tutorial", "--data", "digits", "--seeds", "0"), "--seeds must be positive"),
        (("gumbel-bias", "--data", "digits"), "--data means nothing to gumbel-bias"),
        (("table1", *FEW[:6], "--width", "7"), "7"),
        (("table1", "--data", "digits", "--inception", "w.pth"), "--inception means nothing here: only the tables of"),
        (("table1-cifar", *FEW, "--inception", "/none/w.pth"), "FID needs the weights of Inception, and there is no"),
    ],
)
def test_bad_input_is_one_clear_line(argv, message, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("MOTIONLEX_IMAGES", raising=False)
    code, _, said = run(capsys, *argv, "--out", str(tmp_path / "out"))
    assert code == 2 and message in said and "Traceback" not in said


def test_one_folder_is_for_one_experiment(tmp_path, capsys):
    out = ("--out", str(tmp_path))
    assert run(capsys, "gumbel-bias", *out)[0] == 0
    code, _, said = run(capsys, "gumbel-bias", "--seeds", "2", *out)
    assert code == 2 and "belongs to another experiment: seeds 1 there, 2 here" in said
    assert run(capsys, "gumbel-bias", "--out", str(tmp_path / "jobs"))[0] == 2  # holds other files


def test_a_missing_set_of_the_paper_is_replaced_and_said_so(tmp_path, capsys, monkeypatch, caplog):
    monkeypatch.delenv("MOTIONLEX_IMAGES", raising=False)
    code, result, _ = run(capsys, "table1", "--jobs-list", "--out", str(tmp_path / "out"))
    assert code == 0 and result["data"] == "digits (8 x 8)" and result["left"] == len(result["jobs"]) == 11
    assert "going on with the built-in digits" in caplog.text and not (tmp_path / "out").exists()


IDX = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (dict.fromkeys(IDX, b"junk"), "train-images-idx3-ubyte is no idx file of bytes: it begins with 6a756e6b"),
        ({IDX[0]: b"\0\0\x08\x01\0\0\0\0"}, f"is incomplete in {{root}}: no {IDX[1]}"),
    ],
)
def test_a_damaged_or_incomplete_set_is_not_replaced(files, message, tmp_path, capsys, monkeypatch):
    write(tmp_path / "sets" / "mnist", files)
    monkeypatch.setenv("MOTIONLEX_IMAGES", str(tmp_path / "sets"))
    code, _, said = run(capsys, "table1", "--jobs-list", "--out", str(tmp_path / "out"))
    assert code == 2 and message.format(root=tmp_path / "sets") in said and str(tmp_path / "sets") in said
    assert "built-in" not in said


@pytest.mark.parametrize("folder", ["none", "."])
def test_a_set_that_is_not_in_the_folder_is_replaced(folder, tmp_path, capsys, monkeypatch, caplog):
    monkeypatch.setenv("MOTIONLEX_IMAGES", str(tmp_path / folder))
    code, result, _ = run(capsys, "gm-vq-table1", "--jobs-list", "--out", str(tmp_path / "out"))
    assert code == 0 and result["data"] == "digits (8 x 8)" and "going on with the built-in digits" in caplog.text


class Coin(DiscreteAutoencoder):
    """Fair pixels whatever the codes, which go round four of five codes: every measure is known."""

    vocabulary, tokens, final_beta = 5, 2, 0.5

    def __init__(self):
        super().__init__()
        self.anything = torch.nn.Parameter(torch.zeros(()))
        self.domain = domain_from_plain({"kind": "image", "height": 8, "width": 8, "channels": 1, "patch": (2, 2)})

    def encode(self, x, generator):
        indices = (torch.arange(2 * len(x)) % 4).view(-1, 2)
        return Codes(indices=indices, embeddings=self.embed(indices))

    def embed(self, indices):
        return torch.zeros(*indices.shape, 1)

    def decode_embeddings(self, embeddings):
        return Independent(Bernoulli(logits=torch.zeros(len(embeddings), 64, 1)), 2)

    def kl_to_prior(self, x, codes):
        return torch.full((len(x),), 3.0)

    def loss(self, x, generator, *, progress):
        raise NotImplementedError

    def parameter_groups(self):
        return ()


def test_measures_of_a_model_that_knows_nothing():
    test = load_image_dataset("digits").test
    found = evaluate_images(Coin(), Preprocessing(form="threshold"), test, family="bernoulli", limit=300)
    bits = 64 * math.log(2.0)
    assert found["images"] == 300 and found["log_likelihood"] == pytest.approx(-bits, rel=1e-6)
    assert found["beta_elbo"] == pytest.approx(-bits - 1.5, rel=1e-6)
    assert found["bits_per_dimension"] == pytest.approx(1.0 + 3.0 / bits, rel=1e-6)
    assert found["mse_1e3"] == pytest.approx(250.0) and found["psnr_db"] == pytest.approx(20 * math.log10(2.0))
    assert found["usage"] == pytest.approx(0.8) and found["perplexity"] == pytest.approx(4.0)
    assert found["perplexity_per_batch"] == pytest.approx(4.0) and found["ssim"] is None


class Undecided(QuantisedAutoencoder):
    """Always decodes code 0, and gives half of each token to a code of its own: 0 and 1, or 0 and 2."""

    kl_to_prior, loss, decode_embeddings = Coin.kl_to_prior, Coin.loss, Coin.decode_embeddings
    parameter_groups, embed = Coin.parameter_groups, Coin.embed

    def __init__(self):
        torch.nn.Module.__init__(self)
        self.anything = torch.nn.Parameter(torch.zeros(()))
        self.vocabulary, self.tokens, self.domain = 4, 2, Coin().domain

    def code_indices(self, x):
        return torch.zeros(len(x), 2, dtype=torch.int64)

    def code_probabilities(self, x):
        return torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.5, 0.0, 0.5, 0.0]]).expand(len(x), 2, 4)


def test_the_perplexity_of_the_posterior_is_that_of_its_mean_not_of_the_codes():
    """The mean is (1/2, 1/4, 1/4): 1.5 bits of entropy, 2^1.5; one code is decoded."""
    test = load_image_dataset("digits").test
    form = Preprocessing(form="threshold")
    found = evaluate_images(Undecided(), form, test, family="bernoulli", limit=300)
    assert found["posterior_perplexity_per_batch"] == pytest.approx(2.0**1.5)
    assert found["perplexity_per_batch"] == pytest.approx(1.0) and found["beta_elbo"] is None
    assert evaluate_images(Coin(), form, test, family="bernoulli", limit=9)["posterior_perplexity_per_batch"] is None


def test_pixels_follow_the_likelihood():
    data = load_image_dataset("digits")
    forms = {
        family: resolve(replace(RECIPE, family=family), data)[0].form
        for family in ("bernoulli", "discretised_logistic", "gaussian")
    }
    assert forms == {"bernoulli": "threshold", "discretised_logistic": "unit", "gaussian": "standardise"}
    assert resolve(replace(RECIPE, resampled=True), data)[0].form == "bernoulli"


def test_width_reaches_every_network():
    data = load_image_dataset("digits")
    _, config = resolve(replace(RECIPE, method="rrvq", width=12), data)
    assert config.method_config["ladder"]["width"] == config.method_config["embedding_width"] == 12
    _, config = resolve(replace(RECIPE, width=12), data)
    assert config.method_config["networks"]["width"] == config.domain["hidden"] == 12
    with pytest.raises(UserError, match="is for images of 28 x 28 x 1"):
        resolve(replace(RECIPE, setting="mnist"), data)


def test_an_image_run_is_resumed_on_its_own_recipe_only(tmp_path):
    runs.train_recipe(RECIPE, tmp_path / "run")
    with pytest.raises(UserError, match="run of another recipe"):
        runs.train_recipe(replace(RECIPE, batch=16), tmp_path / "run")
    saved = runs.load_image_run(tmp_path / "run")
    assert saved.meta["steps"] == 2 and saved.preprocessing == Preprocessing(form="threshold")
    assert saved.config.data == "digits" and (tmp_path / "run" / checkpoint.STATE_FILE).is_file()


def test_pictures_are_laid_out_row_by_row():
    images = torch.arange(6.0).view(6, 1, 1).expand(6, 4, 1) / 5.0
    picture = tiled(images, (2, 2), 3)
    assert picture.shape == (8, 12, 3) and (picture[0] == 255).all() and (picture[:, 3] == 255).all()
    centres = picture[1::4, 1::4, 0]
    assert np.array_equal(centres, np.rint(np.arange(6) * 51.0).reshape(2, 3))


def test_the_exact_gradient_against_finite_differences():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        function = dense_layers((4, 7, 1)).double()
    logits = torch.tensor([0.3, -1.0, 0.7, 0.1], dtype=torch.float64)

    def expectation(values):
        with torch.no_grad():
            return (torch.softmax(values, 0) * function(torch.eye(4).double()).squeeze(-1)).sum().item()

    numeric = [(expectation(logits + 1e-5 * e) - expectation(logits - 1e-5 * e)) / 2e-5 for e in torch.eye(4).double()]
    assert gumbel_bias.exact_gradient(function, logits).tolist() == pytest.approx(numeric, abs=1e-9)


def test_the_gradient_of_a_constant_function_vanishes():
    """Draw by draw: relaxed weights sum to one, so that no direction of the logits changes a constant."""
    constant = dense_layers((4, 1)).double()
    with torch.no_grad():
        constant[0].weight.zero_()
    logits = torch.tensor([0.3, -1.0, 0.7, 0.1], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    estimate = gumbel_bias.estimated_gradient(constant, logits, generator, draws=100)
    assert estimate.abs().max() == 0.0
