"""``evaluate-stack --stage tracking --plans``: plans of a bundle's own high-level policy, followed from their start."""

import json

import numpy as np
import pytest

from motionlex.controllers import tracking_stage
from motionlex.controllers.bundle import load_bundle
from motionlex.controllers.low_level_config import LowLevelConfig
from motionlex.controllers.low_level_policy import LowLevelPolicy
from motionlex.scripts.evaluate_stack import main


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path, toy_encoder, tiny_bundle):
    monkeypatch.setenv("MOTIONLEX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("motionlex.controllers.generated.TextEncoder", toy_encoder)
    loose = tracking_stage.generate

    def anything(source, config, *, seed):
        from motionlex.controllers.generated import PlausibilityLimits

        limits = PlausibilityLimits(root_speed=1e6, joint_speed=1e6, penetration=1e6)  # an untrained policy flies about
        return loose(source, config, seed=seed, limits=limits)

    monkeypatch.setattr(tracking_stage, "generate", anything)
    task = LowLevelPolicy.load(tiny_bundle / "low_level").task
    monkeypatch.setattr(tracking_stage, "load_low_level_config", lambda folder: LowLevelConfig(task=task))


def evaluated(arguments, capsys):
    assert main([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_every_plan_is_one_episode_from_its_first_frame(tiny_bundle, monkeypatch, capsys):
    shown = []
    original = tracking_stage.evaluate_tracking

    def watched(policy, library, command, **options):
        shown.append((library, command, options["starts"]))
        return original(policy, library, command, **options)

    monkeypatch.setattr(tracking_stage, "evaluate_tracking", watched)
    report = evaluated([tiny_bundle, "--stage", "tracking", "--plans", 4, "--seconds", 9], capsys)
    library, command, starts = shown[0]
    assert (library.clip_frame[list(starts)] == 0).all() and len(starts) == 4 == report["episodes"]
    assert report["split"] == "plans" and report["seconds"] == 9.0 and report["full_length_share"] == 1.0
    assert {row["category"]: row["episodes"] for row in report["categories"]} == {"generated": 2, "led": 2}
    hz = load_bundle(tiny_bundle).meta.hz
    for clip, name in enumerate(library.clip_names):
        frames = np.flatnonzero(library.clip_of(np.arange(library.frames)) == clip)
        assert 9.6 - 0.33 < len(frames) / hz < 10.4 + 0.33, name  # two commands of about 5 s in whole segments
    assert len(np.unique(command.segment)) > 4 * 25


def test_other_seeds_are_other_plans(tiny_bundle, capsys):
    arguments = [tiny_bundle, "--stage", "tracking", "--plans", 2, "--seconds", 1]
    first, again, other = (evaluated([*arguments, "--seed", seed], capsys) for seed in (0, 0, 1))
    assert first["joint_error_rad"] == again["joint_error_rad"] != other["joint_error_rad"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--stage", "data", "--plans", "3"], "--plans is for --stage tracking"),
        (["--stage", "tracking", "--plans", "-1"], "--plans"),
        (["--stage", "tracking", "--plans", "3", "--clips", "walk"], "--plans takes the place of --clips"),
        (["--stage", "tracking", "--plans", "3", "--spread", "9"], "--plans takes the place of --spread"),
    ],
)
def test_plans_that_mean_nothing_are_refused(arguments, words, tiny_bundle, capsys):
    assert main([str(tiny_bundle), *arguments]) == 2
    assert words in capsys.readouterr().err


def test_a_run_without_a_high_level_policy_has_no_plans(tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    assert main([str(tmp_path / "run"), "--stage", "tracking", "--plans", "3"]) == 2
    assert "--plans needs a bundle" in capsys.readouterr().err
