"""Learning curves of low-level runs: what was logged is what is drawn, in the unit that the title names."""

import json

import numpy as np
import pytest
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from motionlex.controllers import low_level_figures
from motionlex.controllers.low_level_figures import draw_curves, last_pass, learning_curves, read_run_curves
from motionlex.data.errors import UserError
from motionlex.motion_vae.figures import Curve
from motionlex.scripts.compare import main


def log(folder, points, *, tag="train/lost_share"):
    writer = SummaryWriter(str(folder / "tensorboard"))
    for step, value in points:
        writer.add_scalar(tag, value, step)
    writer.close()
    for name in ("config.json", "policy.json"):
        (folder / name).write_text("{}")


@pytest.fixture
def runs(tmp_path):
    log(tmp_path / "slow", [(1_000_000, 0.75), (3_000_000, 0.5)])
    log(tmp_path / "slow", [(1_000_000, 40.0), (3_000_000, 30.0)], tag="evaluation/keypoint_error_local_mm")
    log(tmp_path / "slow", [(1_000_000, 9.0)], tag="train/something_else")
    log(tmp_path / "fast", [(2_000_000, 0.25), (4_000_000, 0.125)])
    return [tmp_path / "slow", tmp_path / "fast"]


def test_panels_hold_the_logged_values_in_their_units(runs):
    figure = learning_curves({run.name: read_run_curves(run) for run in runs})
    assert [axes.get_title() for axes in figure.axes] == ["lost episodes in training [%]", "local key-point error [mm]"]
    lost, error = ([(line.get_xdata(), line.get_ydata()) for line in axes.lines] for axes in figure.axes)
    np.testing.assert_allclose(lost, [[[1.0, 3.0], [75.0, 50.0]], [[2.0, 4.0], [25.0, 12.5]]])
    np.testing.assert_allclose(error, [[[1.0, 3.0], [40.0, 30.0]]])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["slow", "fast"]
    colours = {line.get_color() for axes in figure.axes for line in axes.lines}
    assert figure.axes[1].lines[0].get_color() == figure.axes[0].lines[0].get_color() and len(colours) == 2
    assert figure.axes[0].get_xlabel() == "control steps [million]"
    assert not learning_curves({"one": read_run_curves(runs[1])}).legends


def test_what_a_crash_undid_is_not_drawn():
    """Logged to 500, saved at 200, resumed there and logged to 400; then saved at 400 and gone on."""
    steps = np.array([100, 200, 300, 400, 500, 300, 400, 500, 600])
    found = last_pass(Curve(steps=steps, values=np.arange(9.0)))
    np.testing.assert_array_equal(found.steps, [100, 200, 300, 400, 500, 600])
    np.testing.assert_array_equal(found.values, [0.0, 1.0, 5.0, 6.0, 7.0, 8.0])
    straight = last_pass(Curve(steps=np.array([1, 2]), values=np.zeros(2)))
    np.testing.assert_array_equal(straight.steps, [1, 2])


def test_the_picture_is_written_and_runs_without_logs_are_left_out(runs, tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    path = draw_curves([*runs, bare], tmp_path / "curves.png")
    picture = np.asarray(Image.open(path).convert("RGB")).astype(int)
    blue, orange = picture[..., 2] - picture[..., 0], picture[..., 0] - picture[..., 2]
    assert (blue > 100).sum() > 200 and (orange > 100).sum() > 100  # both runs have lines
    assert draw_curves([bare], tmp_path / "none.png") is None and not (tmp_path / "none.png").exists()
    with pytest.raises(UserError, match="given twice"):
        draw_curves([runs[0], runs[0]], tmp_path / "twice.png")
    other = tmp_path / "other" / "slow"
    log(other, [(1, 0.5)])
    assert low_level_figures._names([runs[0], other]) == [str(runs[0]), str(other)]


def test_compare_draws_low_level_runs_and_refuses_a_mixture(runs, tmp_path, capsys):
    out = tmp_path / "comparison"
    for given in (runs, [*runs, out]):  # the second time runs/* holds the comparison as well
        assert main([*map(str, given), "--out", str(out), "--json"]) == 0
        result = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
        assert result["runs"] == [str(run) for run in runs]
        assert sorted(path.name for path in out.iterdir()) == ["comparison.json", "comparison.png"]
    (runs[1] / "policy.json").unlink()
    assert main([*map(str, runs), "--out", str(out)]) == 2
    assert "runs of one kind" in capsys.readouterr().err
    (tmp_path / "bundle_part").mkdir()
    (tmp_path / "bundle_part" / "policy.json").write_text("{}")
    assert main([str(tmp_path / "bundle_part"), "--out", str(out)]) == 2
    assert "no logs" in capsys.readouterr().err
