"""Figures of several runs: averaged curves, samples of the prior in rows; lines of progress."""

import logging
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from motionlex.motion_vae.figures import Curve
from motionlex.motion_vae.images import run_curves
from motionlex.motion_vae.images.beta_ess_grid import BETA_ESS_GRID
from motionlex.motion_vae.images.evaluation import SHOWN, uniform_codes
from motionlex.motion_vae.images.jobs import Finished, Options, TrainingJob, read_result
from motionlex.motion_vae.images.presets import image_preset
from motionlex.motion_vae.images.prior_draws import PICTURE, PRIOR_SAMPLES
from motionlex.motion_vae.images.progress import Progress
from motionlex.motion_vae.images.recipes import Recipe
from motionlex.motion_vae.images.run_curves import ETA, KL, LOG_P, draw_training, mean_curve, training_curves
from motionlex.motion_vae.images.value_samples import VALUE_SAMPLES
from motionlex.motion_vae.registry import build_model

JOB = TrainingJob(
    row="a",
    slug="a",
    recipe=Recipe(method="daps", setting="tiny", data="digits", family="bernoulli", steps=1),
)


def options(**changes):
    values = {"data_root": None, "steps": 1, "batch": 8, "width": 16, "seeds": (0,), "images": 16}
    return Options(data="digits", title="digits", shape=(8, 8, 1), **{**values, **changes})


def logged(folder, values, steps=(50, 100, 150)):
    """Logs with the same value at every step."""
    writer = SummaryWriter(str(folder / "tensorboard"))
    for step in steps:
        for name, value in values.items():
            writer.add_scalar(name, value, step)
    writer.close()
    return folder


def test_curves_are_averaged_at_the_steps_that_all_have():
    curves = [
        Curve(steps=np.array([50, 100, 150]), values=np.array([1.0, 2.0, 9.0])),
        Curve(steps=np.array([50, 100]), values=np.array([3.0, 6.0])),
    ]
    found = mean_curve(curves)
    assert found.steps.tolist() == [50, 100] and found.values.tolist() == [2.0, 4.0]
    assert mean_curve(curves[:1]).values.tolist() == [1.0, 2.0, 9.0]


def test_the_kl_is_what_the_posterior_knows_of_the_codes(tmp_path):
    """q that gives every one of 8 codes of 256 the probability 1/4: 8 (ln 256 - ln 4) nats."""
    folder = logged(tmp_path, {"train/log_q_nats": -8.0 * math.log(4.0)})
    curve = training_curves(Finished(job=JOB, result={"bits_per_segment": 64.0}, folder=folder))[KL]
    assert curve.values == pytest.approx([8.0 * math.log(64.0)] * 3, rel=1e-6)
    assert training_curves(Finished(job=JOB, result={}, folder=tmp_path / "none")) == {}


def drawn(monkeypatch):
    """Lines of every figure that is drawn: by its file, by line of panels and panel, (label, values)."""
    from motionlex.motion_vae import figures

    found, save = {}, figures.save

    def noted(figure, path):
        found[path.name] = [
            {line.get_label(): line.get_ydata().tolist() for line in axes.get_lines()} for axes in figure.axes
        ]
        return save(figure, path)

    monkeypatch.setattr(figures, "save", noted)
    return found


def grid_results(tmp_path, experiment, chosen):
    """Jobs whose log-likelihood is minus a thousand times beta, less a hundred times the ESS target, less the seed."""
    finished = []
    for job in experiment.jobs(chosen):
        changes = dict(change.split("=") for change in job.recipe.changes)
        beta, target = float(changes.get("beta_start", 0.0)), float(changes.get("ess_target", 0.0))
        level = -1000.0 * beta - 100.0 * target - job.seed
        values = {LOG_P: level, "train/log_q_nats": -1.0, "train/log_p_spread_nats": 1.0, ETA: 10.0}
        result = {"bits_per_segment": 64.0, "psnr_db": 10.0, "steps": 1, "batch": 2, "parameters": 3, "images": 4}
        finished.append(Finished(job=job, result=result, folder=logged(tmp_path / job.name, values)))
    return finished


def test_curves_of_the_grid_are_means_over_targets_and_cells(tmp_path, monkeypatch):
    """Figure 8: by beta, over the targets 1/4, 1/2, 3/4 and two seeds; figure 9: every cell, over seeds."""
    found, chosen = drawn(monkeypatch), options(seeds=(0, 1))
    finished = grid_results(tmp_path, BETA_ESS_GRID, chosen)
    _, _, files = BETA_ESS_GRID.report(chosen, finished, tmp_path)
    names = {path.name for path in files}
    assert {"beta_ess_grid.png", "beta_curves.png", "beta_ess_curves.png"} <= names
    log_p, kl, eta = found["beta_curves.png"]
    assert {label: values[0] for label, values in log_p.items()} == pytest.approx(
        {f"beta {beta:g}": -1000.0 * beta - 50.5 for beta in (0.1, 1.0, 5.0, 10.0)} | {"beta annealed": -0.5}
    )
    assert kl["beta 1"] == pytest.approx([64.0 * math.log(2.0) - 1.0] * 3) and eta["beta 5"] == [10.0] * 3
    cells = found["beta_ess_curves.png"]
    assert len(cells) == 4 * 3 and list(cells[0]) == ["ESS 0.25 K", "ESS 0.5 K", "ESS 0.75 K"]
    assert cells[9]["ESS 0.75 K"] == pytest.approx([-10_000.0 - 75.0 - 0.5] * 3)  # fourth line, log-likelihood


def test_value_samples_have_a_curve_for_every_number(tmp_path, monkeypatch):
    found, chosen = drawn(monkeypatch), options()
    VALUE_SAMPLES.report(chosen, grid_results(tmp_path, VALUE_SAMPLES, chosen), tmp_path)
    assert [list(panel) for panel in found["value_samples.png"]] == [[f"K = {k}" for k in (2, 4, 8, 16, 32)]] * 3


def test_a_temperature_over_decades_gets_a_logarithmic_axis(tmp_path, monkeypatch):
    from motionlex.motion_vae import figures

    figures_seen = []
    monkeypatch.setattr(figures, "save", lambda figure, path: figures_seen.append(figure) or path)
    jobs = [
        Finished(job=JOB, result={}, folder=logged(tmp_path / f"{value:g}", {ETA: value, LOG_P: -value}))
        for value in (0.1, 100.0)
    ]
    draw_training({"": {"low": jobs[:1], "high": jobs[1:]}}, (ETA, LOG_P), "title", tmp_path / "x.png")
    assert [axes.get_yscale() for axes in figures_seen[0].axes] == ["log", "linear"]
    assert run_curves.TITLES[ETA] == figures_seen[0].axes[0].get_title()


@pytest.mark.parametrize("method", ["daps", "vqvae", "fsq"])
def test_prior_codes_are_uniform_over_the_whole_vocabulary(method):
    """Chi-square of 4,000 sequences of 16 tokens over all codes of every token, at four deviations of its law."""
    preset, shape = image_preset(method, "tiny")
    model = build_model(method, preset.method, shape, seed=0)
    codes = uniform_codes(model, 4000, torch.Generator().manual_seed(0))
    assert codes.shape == (4000, model.tokens)
    counts = torch.stack([torch.bincount(column, minlength=model.vocabulary) for column in codes.T]).double()
    assert counts.shape == (16, model.vocabulary)
    expected, freedom = 4000 / model.vocabulary, 16 * (model.vocabulary - 1)
    statistic = ((counts - expected) ** 2 / expected).sum().item()
    assert abs(statistic - freedom) < 4.0 * math.sqrt(2.0 * freedom)
    assert not torch.equal(codes, uniform_codes(model, 4000, torch.Generator().manual_seed(1)))


def test_rows_of_prior_samples_belong_to_their_seed(tmp_path):
    """One job of every method and of two seeds; the figure shows the first seed of each."""
    chosen = options(seeds=(0, 1))
    finished = []
    for job in PRIOR_SAMPLES.jobs(chosen):
        job.run(tmp_path / job.name, "cpu")
        finished.append(read_result(job, tmp_path / job.name))
    rows = {one.job.name: np.asarray(Image.open(one.folder / PICTURE)) for one in finished}
    assert sorted(rows) == [f"{method}_seed{seed}" for method in ("daps", "fsq", "vqvae") for seed in (0, 1)]
    assert {row.shape for row in rows.values()} == {(10, SHOWN * 10, 3)}
    for method in ("daps", "fsq", "vqvae"):
        assert not np.array_equal(rows[f"{method}_seed0"], rows[f"{method}_seed1"])
    first = finished[0]
    (first.folder / PICTURE).unlink()
    (first.folder / "evaluation.json").unlink()
    first.job.run(first.folder, "cpu")
    assert np.array_equal(np.asarray(Image.open(first.folder / PICTURE)), rows[first.job.name])
    _, plain, files = PRIOR_SAMPLES.report(chosen, finished, tmp_path)
    assert [row["row"] for row in plain["rows"]] == ["DAPS", "VQ-VAE", "FSQ"]
    assert "prior_samples.png" in {path.name for path in files}


def test_progress_says_how_much_time_is_left(caplog):
    """Two seconds per step: a line every five seconds at the earliest, and one at the end."""
    caplog.set_level(logging.INFO)
    now = [100.0]
    progress = Progress("classifier", 5, clock=lambda: now[0])
    for step in range(1, 6):
        now[0] += 2.0
        progress.done(step, lambda: "0.5 nat")
    assert caplog.messages == [
        "classifier, step 3/5  2.000 s/step  left 0:00:04  0.5 nat",
        "classifier, step 5/5  2.000 s/step  left 0:00:00  0.5 nat",
    ]
