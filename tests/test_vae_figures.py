"""Figures of runs by their pixels: marks are where the numbers say."""

import itertools

import numpy as np
from PIL import Image

from motionlex.motion_vae import figures
from motionlex.motion_vae.trajectories.strips import HEADER_PIXELS, one_of_each, reconstruction_strip


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def test_the_usage_grid_shows_where_the_codes_are(tmp_path):
    """Colour of every cell's centre: grey where a code never occurs, brighter where it occurs more often."""
    counts = np.zeros((3, 10), dtype=np.int64)
    counts[0, 7], counts[2, 7], counts[1, 2] = 30, 30, 10
    figure = figures.code_usage(counts)
    picture = pixels(figures.save(figure, tmp_path / "usage.png"))
    assert picture.shape == (round(4.4 * 120), 1200, 3) and picture.std() > 10
    grid, position = figure.axes[:2]

    def colour(axes, column, row):
        x, y = axes.transData.transform((column, row))
        return picture[picture.shape[0] - 1 - int(y), int(x)]

    grey, white = [0xE6] * 3, [255] * 3
    for code in range(10):
        row, column = divmod(code, 4)  # ten codes make a grid of four columns
        found = colour(grid, column, row).tolist()
        assert (found == grey) == (code not in (2, 7)), code
    assert colour(grid, 3, 2).tolist() == white  # no code there
    assert colour(grid, 3, 1).sum() > colour(grid, 2, 0).sum()  # 60 occurrences are brighter than 10
    for row, column in itertools.product(range(3), range(10)):
        assert (colour(position, column, row).tolist() == grey) == (counts[row, column] == 0)


def test_curves_are_read_back_and_drawn(tmp_path):
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(tmp_path / "logs"))
    for step in range(0, 500, 50):
        for name, value in (("eta", 100.0 * 0.5 ** (step / 50)), ("beta", 1.0), ("loss", -float(step))):
            writer.add_scalar(f"train/{name}", value, step)
    writer.close()
    curves = figures.read_curves(tmp_path / "logs")
    assert set(curves) == {"train/eta", "train/beta", "train/loss"}
    assert curves["train/loss"].steps.tolist() == list(range(0, 500, 50))
    np.testing.assert_allclose(curves["train/eta"].values, 100.0 * 0.5 ** np.arange(10))
    figure = figures.training_curves(curves)
    assert [axes.get_title() for axes in figure.axes] == ["loss", "beta", "eta"]
    assert [axes.get_yscale() for axes in figure.axes] == ["linear", "linear", "log"]
    picture = pixels(figures.save(figure, tmp_path / "curves.png"))
    assert picture.shape == (round(2.3 * 120), round(3 * 3.2 * 120), 3)
    blue = (picture[..., 2] - picture[..., 0] > 60).nonzero()
    assert len(blue[0]) > 300  # lines in three panels
    assert all(((blue[1] // (picture.shape[1] // 3)) == panel).any() for panel in range(3))
    assert figures.read_curves(tmp_path / "nowhere") == {}


def test_a_strip_shows_the_original_above_the_reconstruction():
    """Pictures tell the pose they were painted of: red the place along x, green the height."""
    truth = np.zeros((32, 26))
    truth[:, 0], truth[:, 2] = np.linspace(0.0, 3.1, 32), np.linspace(0.0, 0.62, 32)
    decoded = truth.copy()
    decoded[:, 0] += 0.5
    decoded[:, 2] += 0.2

    def render(pose):
        return np.full((20, 60, 3), [round(100 * pose[0]), round(100 * pose[2]), 200], dtype=np.uint8)

    strip = reconstruction_strip(truth, decoded, render, hz=50.0, title="walk", pictures=4)
    assert strip.shape == (HEADER_PIXELS + 40, 240, 3)
    heights = [0, 20, 42, 62]  # of frames 0, 10, 21 and 31
    for column, height in enumerate(heights):
        cell = strip[HEADER_PIXELS:, 60 * column : 60 * (column + 1)]
        assert (cell[:20] == [0, height, 200]).all()  # the original stays in the middle
        assert (cell[20:] == [50, height + 20, 200]).all()  # 0.5 m ahead of it, 0.2 m higher
    header = strip[:HEADER_PIXELS]
    assert header.min() < 64 and header.max() == 255  # text on white


def test_one_of_each_category_first():
    assert one_of_each(["a", "a", "b", "a", "c"], 4) == [0, 2, 4, 1]
    assert one_of_each(["a", "a"], 4) == [0, 1]
