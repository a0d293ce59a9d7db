"""Comparisons of evaluated runs: intervals against scipy, like with like, one clear line for every mistake."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from motionlex.data.errors import UserError
from motionlex.data.storage import write_json
from motionlex.motion_vae import checkpoint, figures
from motionlex.motion_vae.comparison import CompareFlags, compare
from motionlex.motion_vae.registry import domain_to_plain, get_preset, override, to_plain
from motionlex.motion_vae.trajectories.domain import TrajectoryDomain
from motionlex.scripts import compare as command


@pytest.fixture
def make(tmp_path):
    """Write what train and evaluate leave behind, without training or evaluating."""

    def write(name, *settings, method="daps", preset="small", seed=0, steps=100, evaluated=None, **changes):
        recipe = override(get_preset(method, preset), settings)
        domain = TrajectoryDomain(frames=changes.pop("frames", 32), likelihood_config=recipe.likelihood)
        config = checkpoint.RunConfig(
            method=method,
            preset=preset,
            method_config=to_plain(recipe.method),
            optimisation=replace(recipe.optimisation, steps=steps, hz=changes.pop("hz", 30.0)),
            domain=domain_to_plain(domain),
            schedule_steps=100,
            data="lafan1",
            data_root=changes.pop("data_root", None),
            seed=seed,
        )
        folder = tmp_path / "runs" / name
        checkpoint.save_config(folder, config)
        meta = {"steps": steps, "seconds": 50.0, "data_hash": changes.pop("data_hash", "abc")}
        write_json(folder / "meta.json", meta)
        metrics = {
            "psnr_db": 30.0, "psnr_per_segment_db": 31.0, "beta_elbo": -900.0, "kl_nats": 250.0, "iwae_nats": None,
            "joint_error_rad": 0.03, "keypoint_error_mm": 25.0, "usage": 1.0, "perplexity": 200.0,
            "seconds_per_step": 0.5, "steps": steps, "bits_per_segment": 512.0, "parameters": 440762,
            "data": "lafan1", "split": "validation", "batch": 200, "iwae_samples": 0,
        }  # fmt: skip
        if evaluated is not False:
            write_json(folder / "evaluation.json", {**metrics, **(evaluated or {}), **changes})
        return folder

    return write


MEAN = {"psnr_of_training_mean_db": 17.5}


def run(folders, tmp_path, **flags):
    return compare(folders, CompareFlags(out=tmp_path / "out", **flags))


def test_seeds_become_one_row_with_students_interval(make, tmp_path):
    psnr = [30.2, 31.0, 29.9]
    runs = [make(f"a{seed}", seed=seed, psnr_db=value) for seed, value in enumerate(psnr)]
    runs.append(make("b", method="vqvae", psnr_db=33.0, beta_elbo=None))
    groups = run(runs, tmp_path)["groups"]
    assert [group["label"] for group in groups] == ["vqvae", "daps"]  # best first
    vqvae, daps = groups
    assert daps["seeds"] == [0, 1, 2] and daps["runs"] == [str(path) for path in runs[:3]]
    low, high = stats.t.interval(0.95, 2, loc=np.mean(psnr), scale=stats.sem(psnr))
    found = daps["metrics"]["psnr_db"]
    assert found["mean"] - found["half_width_95"] == pytest.approx(low, rel=1e-12)
    assert found["mean"] + found["half_width_95"] == pytest.approx(high, rel=1e-12)
    assert daps["metrics"]["kl_nats"] == {"mean": 250.0, "half_width_95": 0.0, "values": [250.0] * 3}
    assert vqvae["metrics"]["psnr_db"] == {"mean": 33.0, "half_width_95": None, "values": [33.0]}
    assert "beta_elbo" not in vqvae["metrics"] and "iwae_nats" not in daps["metrics"]


def test_only_the_seed_and_the_place_of_the_data_may_differ_within_a_row(make, tmp_path):
    runs = [
        make("a", seed=0), make("b", seed=1, data_root="/elsewhere"), make("c", "samples=8"), make("d", steps=200),
        make("e", preset="paper"), make("f", "learning_rate=0.001"),
    ]  # fmt: skip
    result = run(runs, tmp_path)
    rows = {tuple(Path(path).name for path in group["runs"]): group["label"] for group in result["groups"]}
    assert set(rows) == {("a", "b"), ("c",), ("d",), ("e",), ("f",)}
    # what tells rows of one method and recipe apart is in their names
    assert rows["c",] == "daps small samples=8 learning_rate=0.002 steps=100"
    assert rows["f",] == "daps small samples=4 learning_rate=0.001 steps=100"
    assert rows["e",] == "daps paper"
    assert result["notes"] == ["rows differ in steps"]


def test_files_and_table(make, tmp_path):
    runs = [make("a", psnr_db=30.0), make("b", seed=1, psnr_db=31.0), make("c", method="vqvae", psnr_db=28.0)]
    write_json(runs[0] / "evaluation.json", {**json.loads((runs[0] / "evaluation.json").read_text()), **MEAN})
    result = run(runs, tmp_path)
    assert result["notes"] == ["predicting the mean of the training split has a pooled PSNR of 17.50 dB"]
    out = tmp_path / "out"
    assert result["files"] == [str(out / f"comparison.{ending}") for ending in ("md", "json", "png")]
    assert json.loads((out / "comparison.json").read_text()) == json.loads(json.dumps(result))
    lines = (out / "comparison.md").read_text().splitlines()
    header, rule, daps, vqvae = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines[:4])
    assert len(header) == len(rule) == len(daps) == len(vqvae) == 14
    row = dict(zip(header, daps))
    assert row["method"] == "daps" and row["bits/segment"] == "512" and row["parameters"] == "440,762"
    assert row["seeds"] == "2" and row["PSNR pooled [dB]"] == "30.50 ± 6.35"  # t = 12.706 of one degree of freedom
    assert row["joint error [rad]"] == "0.0300 ± 0.0000"
    assert dict(zip(header, vqvae))["PSNR pooled [dB]"] == "28.00"
    assert not any("IWAE" in title for title in header)  # nobody has it


def test_the_picture_shows_means_and_intervals(tmp_path):
    """Row 1 has a wide interval: its colour covers its whole width, and that of row 0 only the point."""
    panel = figures.Panel(title="PSNR [dB]", means=[30.0, 31.0, None], half_widths=[None, 2.0, None])
    figure = figures.comparison_plot(["a", "b", "c"], [panel])
    picture = np.asarray(Image.open(figures.save(figure, tmp_path / "plot.png")).convert("RGB")).astype(int)
    assert picture.shape == (round((1.1 + 0.9) * 120), round((1.5 + 2.6) * 120), 3)
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_yticklabels()] == ["a", "b", "c"]

    def is_grey(value, row):
        x, y = axes.transData.transform((value, row))
        red, green, blue = picture[picture.shape[0] - 1 - int(y), int(x)]
        return max(red, green, blue) - min(red, green, blue) < 20

    assert not is_grey(30.0, 0) and is_grey(30.6, 0)
    assert not any(is_grey(value, 1) for value in (29.2, 30.0, 31.0, 32.8))
    assert is_grey(31.0, 2)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"data_hash": "xyz"}, "data_hash: abc (a); xyz (b)"), ({"hz": 50.0}, "hz: 30.0 (a); 50.0 (b)"),
        ({"frames": 64}, "grid: [32] (a); [64] (b)"),
        ({"split": "train"}, "evaluated_split: validation (a); train (b)"),
        ({"batch": 50}, "evaluated_batch: 200 (a); 50 (b)"), ({"data": "builtin"}, "evaluated_data"),
    ],
)  # fmt: skip
def test_unlike_runs_are_mixed_only_when_asked(make, tmp_path, change, named):
    runs = [make("a"), make("b", seed=1, **change)]
    with pytest.raises(UserError) as caught:
        run(runs, tmp_path)
    assert named in str(caught.value) and "--mixed" in str(caught.value)
    assert not (tmp_path / "out").exists()
    result = run(runs, tmp_path, mixed=True)
    assert len(result["groups"]) == 2, "never averaged"
    assert any(named in note for note in result["notes"])
    assert f"Note: runs differ in {named}" in (tmp_path / "out" / "comparison.md").read_text()


def test_bounds_of_different_k_are_not_compared(make, tmp_path):
    plain, few = make("a"), make("b", seed=1, iwae_samples=8, iwae_nats=-800.0)
    groups = run([plain, few], tmp_path)["groups"]
    assert len(groups) == 1 and "iwae_nats" not in groups[0]["metrics"]  # one seed has none
    many = make("c", seed=2, iwae_samples=64, iwae_nats=-700.0)
    with pytest.raises(UserError, match="IWAE bounds: 8, 64"):
        run([few, many], tmp_path)


def test_an_earlier_comparison_among_the_folders_is_passed_over(make, tmp_path):
    runs = [make("a"), make("b", seed=1)]
    out = tmp_path / "runs" / "comparison"
    first = compare(runs, CompareFlags(out=out))
    again = compare([*runs, out], CompareFlags(out=out))
    assert again == first


def test_a_mean_needs_every_seed(make, tmp_path):
    groups = run([make("a"), make("b", seed=1, kl_nats=None)], tmp_path)["groups"]
    assert "kl_nats" not in groups[0]["metrics"] and "psnr_db" in groups[0]["metrics"]


def spoil(folder, file, text):
    (folder / file).write_text(text)
    return folder


MISTAKES = {
    "nothing": (lambda make, path: [], "no runs to compare"),
    "no such folder": (lambda make, path: [path / "nowhere"], "nowhere is not a run of train_motion_vae"),
    "a folder that is no run": (lambda make, path: [make("a"), path], "is not a run of train_motion_vae"),
    "not evaluated": (lambda make, path: [make("a"), make("b", evaluated=False)], "evaluate-motion-vae "),
    "evaluated before": (lambda make, path: [make("a", evaluated={"steps": 50})], "not evaluated since the last"),
    "twice": (lambda make, path: [make("a"), make("b")], "one configuration with one seed (0)"),
    "cut off": (lambda make, path: [spoil(make("a"), "evaluation.json", '{"psnr_db": 3')], "is damaged"),
    "a list": (lambda make, path: [spoil(make("a"), "evaluation.json", "[]")], "holds no JSON object"),
    "empty": (lambda make, path: [spoil(make("a"), "evaluation.json", "{}")], "psnr_db is None, wanted a number"),
    "a word": (lambda make, path: [make("a", kl_nats="many")], "kl_nats is 'many', wanted a number"),
    "bytes": (lambda make, path: [spoil(make("a"), "evaluation.json", "\x00\x01")], "is damaged"),
    "no steps": (lambda make, path: [spoil(make("a"), "meta.json", "{}")], "meta.json is damaged"),
    "configuration": (lambda make, path: [spoil(make("a"), "config.json", "{")], "config.json is damaged"),
    "not a number": (lambda make, path: [spoil(make("a"), "evaluation.json", '{"psnr_db": NaN}')], "wanted a number"),
    "unknown domain": (lambda make, path: [rename_domain(make("a"))], "config.json is damaged: unknown domain 'imag'"),
}


def rename_domain(folder):
    config = json.loads((folder / "config.json").read_text())
    write_json(folder / "config.json", {**config, "domain": {"kind": "imag"}})
    return folder


@pytest.mark.parametrize("kind", MISTAKES)
def test_mistakes_are_one_line(kind, make, tmp_path, capsys):
    prepare, wanted = MISTAKES[kind]
    folders = prepare(make, tmp_path)
    assert command.main([*map(str, folders), "--out", str(tmp_path / "out")]) == 2
    captured = capsys.readouterr()
    assert wanted in captured.err and len(captured.err.strip().splitlines()) == 1
    assert captured.out == "" and not (tmp_path / "out").exists()


def test_the_command_prints_a_table_or_an_object(make, tmp_path, capsys):
    runs = [str(make("a")), str(make("b", method="vqvae"))]
    out = ["--out", str(tmp_path / "out")]
    assert command.main([*runs, *out]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("| method | bits/segment |") and "comparison.png" in printed
    assert command.main([*runs, *out, "--json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 and len(json.loads(lines[0])["groups"]) == 2
