"""The report of all stages: one small run from the command to its files, and its texts and figures by hand."""

import hashlib
import json
from importlib import metadata

import numpy as np
import pytest
from PIL import Image

from motionlex.controllers import evaluation_report
from motionlex.controllers.evaluation_figures import confusion_matrix, switch_outcomes
from motionlex.controllers.evaluation_files import (
    attribution,
    cell,
    check_report_folder,
    markdown,
    paired,
    stage_table,
)
from motionlex.controllers.evaluator_training import EvaluatorFlags, train_evaluator
from motionlex.data.errors import UserError
from motionlex.scripts.evaluate_stack import main

STAGES = ("data", "reconstruction", "generated", "simulated")


@pytest.fixture
def evaluator(tmp_path, monkeypatch, toy_dataset, toy_encode):
    monkeypatch.setattr("motionlex.controllers.evaluator_training.load_dataset", toy_dataset)
    train_evaluator(EvaluatorFlags(steps=2, batch=4, out=tmp_path / "evaluator"), toy_encode)
    return tmp_path / "evaluator"


def test_all_stages_from_the_command_to_the_files(
    evaluator, tiny_bundle, toy_dataset, toy_encoder, monkeypatch, tmp_path, capsys
):
    monkeypatch.setattr(evaluation_report, "load_dataset", toy_dataset)
    monkeypatch.setattr("motionlex.controllers.bundle.TextEncoder", toy_encoder)
    tracked = []

    def tracking(folder, flags):
        tracked.append(flags.out)
        return {"success_rate": 1.0, "keypoint_error_local_mm": 20.0}

    monkeypatch.setattr(evaluation_report, "tracking_stage", tracking)
    monkeypatch.setattr("sys.argv", ["/some/where/motionlex", "evaluate-stack", "a bundle"])
    out = tmp_path / "report"
    arguments = [str(tiny_bundle), "--stage", "all", "--prompts", "1", "--prompt-seconds", "2", "--switches", "1"]
    arguments += ["--survival-rollouts", "0", "--evaluator", str(evaluator), "--out", str(out), "--json"]
    assert main(arguments) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert tracked == [out / "tracking"]
    names = ["report.json", "report.md", "recall.png", "confusion.png", "switches.png"]
    assert report["files"] == [str(out / name) for name in names]
    assert sorted(path.name for path in out.iterdir()) == sorted(names)
    saved = json.loads((out / "report.json").read_text())
    assert {key: value for key, value in report.items() if key != "files"} == saved
    common = {"takes", "judge_accuracy", "recall_at_1", "recall_at_2", "recall_at_3", "frechet_distance", "diversity"}
    common |= {"keypoint_error_local_mm", "joint_error_rad", "foot_sliding_mps"}
    for stage in STAGES:
        scores = report[stage]["scores"]
        assert common <= set(scores), stage
        # of two actions, unless the robot lies
        assert scores["recall_at_2"]["mean"] == (scores["upright"]["mean"] if stage == "simulated" else 1.0)
        assert len(scores["recall_at_1"]["seeds"]) == 1
        low, high = scores["frechet_distance"]["interval_95"]
        assert 0 <= low <= scores["frechet_distance"]["mean"] <= high
    assert report["data"]["scores"]["joint_error_rad"]["mean"] == 0.0
    # recordings and their reconstructions are the same takes, plans and robots have the same prompts
    assert [report["attribution"][stage]["paired"] for stage in STAGES[1:]] == [True, False, True]
    means = [report[stage]["scores"]["judge_accuracy"]["mean"] for stage in STAGES]
    assert report["attribution"]["simulated"]["accuracy_lost"] == pytest.approx(means[2] - means[3])
    assert report["generated"]["scores"]["joint_error_rad"] is None
    assert report["simulated"]["scores"]["joint_error_rad"]["mean"] > 0.0
    assert report["simulated"]["sensitivity"]["foreign_text"]["refused"]["count"] == 30
    assert report["simulated"]["switches"]["switches"] == 1 and report["tracking"]["success_rate"] == 1.0
    digest = hashlib.sha256((tiny_bundle / "meta.json").read_bytes()).hexdigest()
    card = json.loads((tiny_bundle / "meta.json").read_text())
    weights = hashlib.sha256((tiny_bundle / "vae" / "weights.safetensors").read_bytes()).hexdigest()
    assert report["bundle_sha256"] == digest and card["sha256"]["vae/weights.safetensors"] == weights
    made = report["provenance"]
    assert made["command"] == ["motionlex", "evaluate-stack", "a bundle"] and made["device"] == "cpu"
    assert made["versions"]["torch"] == metadata.version("torch") and "commit" in made
    text = (out / "report.md").read_text()
    assert report["split"] == "train" and "No clip is held out" in text  # the toy data have training clips only
    assert "* command: `motionlex evaluate-stack 'a bundle'`" in text and digest in text
    assert f"mujoco {metadata.version('mujoco')}" in text and (made["commit"] or "unknown") in text
    assert "| R@1 [%] |" in text and "## Prompt sensitivity" in text and "1 ordered pairs" in text
    assert "before and after: codes, control." in text and "Unpaired: the choice of codes." in text
    assert "![switches](switches.png)" in text and "nan" not in text and "None" not in text
    for name in names[2:]:
        assert min(Image.open(out / name).size) > 200
    check_report_folder(out)  # an earlier report may be replaced
    (out / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"notes\.txt"):
        check_report_folder(out)
    assert main(arguments) == 2 and "notes.txt" in capsys.readouterr().err


def test_data_without_an_evaluator_is_reported_without_recall(
    tiny_bundle, toy_clips, toy_encoder, monkeypatch, capsys, caplog
):
    from motionlex.data.datasets import MotionData

    monkeypatch.setattr("motionlex.controllers.bundle.TextEncoder", toy_encoder)
    toy = MotionData(name="toy", train=toy_clips, validation=(), hz=50.0)
    monkeypatch.setattr(evaluation_report, "load_dataset", lambda name, root, hz: toy)
    assert main([str(tiny_bundle), "--stage", "data", "--json"]) == 0
    scores = json.loads(capsys.readouterr().out.splitlines()[-1])["scores"]
    assert "judge_accuracy" in scores and "recall_at_1" not in scores and "frechet_distance" not in scores
    assert "motionlex train-evaluator --data toy" in caplog.text


@pytest.mark.parametrize(("held_out", "split"), [(0, "train"), (1, "validation")])
def test_training_clips_are_not_passed_off_as_held_out(
    held_out, split, tiny_bundle, toy_clips, monkeypatch, capsys, caplog
):
    from motionlex.data.datasets import MotionData

    # the second clip stands for 1.8 s only, too short for a take, and waves for 2.2 s
    toy = MotionData(name="toy", train=toy_clips, validation=toy_clips[:held_out], hz=50.0)
    monkeypatch.setattr(evaluation_report, "load_dataset", lambda name, root, hz: toy)
    assert main([str(tiny_bundle), "--stage", "data", "--json"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["split"] == split
    assert report["scores"]["take_names"] == ["a:0-200", "b:90-200"][: 1 if held_out else 2]
    assert ("data set toy holds no clips out" in caplog.text) == (not held_out)
    text = markdown({"bundle": "x", "hz": 50.0, "seed": 0.0, "split": split})
    assert ("No clip is held out" in text) == (not held_out)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--switches", "-1"], "--switches must be at least 0"),
        (["--evaluator", "nowhere", "--stage", "data"], "no motion evaluator at nowhere"),
        (["--out", "x", "--stage", "simulated"], "--out is for --stage tracking or all"),
    ],
)
def test_mistakes_end_in_one_line(arguments, message, capsys, monkeypatch, tmp_path, tiny_bundle, toy_dataset):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(evaluation_report, "load_dataset", toy_dataset)
    assert main([str(tiny_bundle), *arguments]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in error and "Traceback" not in error


def test_cells_and_losses_by_hand():
    assert cell({"mean": 0.5, "interval_95": [0.25, 0.75], "spread": 0.01}, 100.0, 1) == "50.0 ± 1.0 [25.0, 75.0]"
    assert cell({"mean": 0.5, "interval_95": None}) == "0.500" and cell(2.0, 1.0, 1) == "2.0"
    assert cell(None) == cell({"mean": None}) == cell("x") == "–"  # noqa: RUF001
    report = {
        stage: {"scores": {"takes": 9, "judge_accuracy": {"mean": mean}}}
        for stage, mean in zip(STAGES, (1.0, 0.9, 0.95, 0.7), strict=True)
    }
    lost = attribution(report)
    assert lost == {
        "reconstruction": pytest.approx(0.1),
        "generated": pytest.approx(-0.05),
        "simulated": pytest.approx(0.25),
    }
    assert stage_table(report)[-1] == "| linear judge [%] | 100.0 | 90.0 | 95.0 | 70.0 |"
    text = markdown({"bundle": "x", "hz": 50.0, "seed": 0.0, **report})
    assert "codes +10.0, the choice of codes -5.0, control +25.0" in text and "## Switches" not in text
    assert "Unpaired: codes, the choice of codes, control." in text  # nobody says which takes these were
    for stage, names in zip(STAGES, (["a", "b"], ["a", "b"], ["c"], ["d"]), strict=True):
        report[stage]["scores"]["take_names"] = names
    assert paired(report) == {"reconstruction": True, "generated": False, "simulated": False}
    text = markdown({"bundle": "x", "hz": 50.0, "seed": 0.0, **report})
    assert "before and after: codes.\n" in text and "Unpaired: the choice of codes, control." in text


def test_matrices_by_hand():
    table = {"bow": {"bow": 3, "fallen": 1}, "wave": {"bow": 1, "wave": 1}}
    wanted, got, shares = confusion_matrix(table)
    assert wanted == ["bow", "wave"] and got == ["bow", "wave", "fallen"]
    np.testing.assert_allclose(shares, [[0.75, 0.0, 0.25], [0.5, 0.5, 0.0]])
    pairs = [
        {"before": "a", "after": "b", "survived": True, "recognised": "b"},
        {"before": "b", "after": "a", "survived": True, "recognised": "b"},
        {"before": "c", "after": "a", "survived": False, "recognised": "a"},
    ]
    names, grid = switch_outcomes(pairs)
    assert names == ["a", "b", "c"]
    np.testing.assert_array_equal(grid, [[0, 3, 0], [2, 0, 0], [1, 0, 0]])
