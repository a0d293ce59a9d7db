"""What the policy is shown, and how tracking is measured."""

import os
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from motionlex.controllers.commands import build_command_source, decoded_errors, segment_layout
from motionlex.controllers.evaluation_tracking import evaluate_tracking
from motionlex.controllers.rollout_starts import stratified_starts
from motionlex.controllers.tracking_metrics import key_point_errors
from motionlex.data.errors import UserError
from motionlex.data.robots import get_robot
from motionlex.envs.benchmark import benchmark_task
from motionlex.envs.reference import MotionLibrary, reference_command
from motionlex.envs.rewards import BodyState
from motionlex.envs.task import TrackingTask
from motionlex.envs.task_config import TaskConfig

ROBOT = get_robot("h1")


class PerfectAutoencoder:
    """Codes are row numbers of a table that keeps the segments themselves: decoding loses nothing."""

    def __init__(self, hz=50.0):
        self.table = []
        self.statistics = SimpleNamespace(hz=hz, standardise=lambda x: x)
        self.model = SimpleNamespace(vocabulary=9999, parameters=lambda: iter([torch.zeros(1)]))

    def encode_features(self, features, generator):
        first = len(self.table)
        self.table += list(features.double().numpy())
        return torch.arange(first, first + len(features))[:, None].repeat(1, 64)

    def decode_features(self, indices):
        return np.stack([self.table[i] for i in indices[:, 0].tolist()])


class Still:
    """Acts by doing nothing: the servos follow the command."""

    def act(self, observation):
        return np.zeros((len(observation), 19))


@pytest.fixture(scope="module")
def library(toy_clips):
    return MotionLibrary(toy_clips, ROBOT, 50.0)


def test_segments_cover_every_frame(library):
    starts, segment, local = segment_layout(library)
    assert (local >= 0).all() and (local < 32).all()
    np.testing.assert_array_equal(starts[segment] + local, np.arange(library.frames))
    inner = library.last_frame - np.arange(library.frames) >= 32
    assert (local[inner] < 16).all()
    owner = library.run_of[starts]
    assert (library.run_of[starts + 31] == owner).all()


def test_lossless_codes_show_the_data(library):
    command = build_command_source("decoded", library, PerfectAutoencoder())
    errors = decoded_errors(library, command)
    assert errors["command_joint_error_rad"] < 1e-5  # float32 on the way
    assert errors["command_root_error_mm"] < 2.0  # x, y are integrated from velocities
    reference = reference_command(library, (1, 8))
    np.testing.assert_allclose(
        command.qpos[command.rows][200:260, :, 7:], reference.qpos[reference.rows][200:260, :, 7:], atol=1e-5
    )


def test_look_ahead_stays_in_the_running_segment(library):
    command = build_command_source("decoded", library, PerfectAutoencoder())
    np.testing.assert_array_equal(command.rows // 32, np.repeat(command.segment[:, None], 2, axis=1))
    _, _, local = segment_layout(library)
    np.testing.assert_array_equal(command.rows[:, 0] % 32, np.minimum(local + 1, 31))


def test_latent_command_gives_codes_and_phase(library):
    command = build_command_source("latent", library, PerfectAutoencoder())
    assert command.qpos is None and command.codes.shape[2] == 64
    assert command.phase[0] == 0.0 and command.phase[8] == 0.5 and command.phase[16] == 0.0


def test_missing_or_foreign_autoencoders_are_refused(library):
    with pytest.raises(UserError, match="--vae"):
        build_command_source("decoded", library, None)
    with pytest.raises(UserError, match="100 Hz"):
        build_command_source("decoded", library, PerfectAutoencoder(hz=100.0))


def test_errors_of_hand_made_poses(library):
    state = library.at(np.array([10, 20]))
    moved = BodyState(
        qpos=state.qpos + np.array([0.3, 0.4, 0.0, 0, 0, 0, 0, *[0.0] * 19]),
        qvel=state.qvel,
        sites=state.sites + np.array([0.3, 0.4, 0.0]),
    )
    world, local, joint = key_point_errors(moved, state)
    np.testing.assert_allclose(world, 500.0)  # a 3-4-5 triangle [mm]
    np.testing.assert_allclose(local, 0.0, atol=1e-9)
    np.testing.assert_allclose(joint, 0.0)
    bent = replace(state, qpos=state.qpos + np.array([0.0] * 7 + [0.1] * 19))
    np.testing.assert_allclose(key_point_errors(bent, state)[2], 0.1)


def test_starts_are_spread_and_leave_room(library):
    starts = stratified_starts(library, 3, horizon=100)
    np.testing.assert_array_equal(starts, [0, 49, 99, 200, 249, 299])


def test_servos_alone_keep_shallow_knee_bends_for_a_while_and_falling_is_a_failure():
    task = benchmark_task(50.0)
    report = evaluate_tracking(
        Still(), task.library, None, robot=ROBOT, config=task.config, seconds=0.3, starts=(0, 100), per_run=1
    )
    assert report["success_rate"] == 1.0 and report["mean_survival_s"] == pytest.approx(0.3)
    assert report["keypoint_error_local_mm"] < 60 and report["episodes"] == 2
    assert [clip["clip"] for clip in report["clips"]] == ["knee_bends"]

    class Falls(Still):
        def act(self, observation):
            return np.full((len(observation), 19), -4.0)

    lost = evaluate_tracking(Falls(), task.library, None, robot=ROBOT, config=task.config, seconds=2.0, starts=(0,))
    assert lost["success_rate"] == 0.0 and 0.0 < lost["mean_survival_s"] < 2.0


def test_permuted_commands_show_another_place(library):
    latent = build_command_source("latent", library, PerfectAutoencoder())
    wrong = latent.permuted(np.random.default_rng(0))
    assert sorted(wrong.codes[0, :, 0]) == sorted(latent.codes[0, :, 0]) and (wrong.codes != latent.codes).any()
    frames = reference_command(library, (1, 8))
    other = frames.permuted(np.random.default_rng(1))
    np.testing.assert_array_equal(other.qpos[:, :7], frames.qpos[:, :7])
    assert np.abs(other.qpos[:, 7:] - frames.qpos[:, 7:]).max() > 0.05


def _shipped_bundle():
    folder = os.environ.get("MOTIONLEX_BUNDLE") or files("motionlex.controllers.bundles").joinpath("builtin")
    return Path(str(folder))


def test_permuting_the_command_collapses_tracking_of_the_shipped_policy():
    from motionlex.controllers.low_level_policy import LowLevelPolicy
    from motionlex.data.datasets import load_dataset
    from motionlex.motion_vae.checkpoint import load_run

    policy = LowLevelPolicy.load(_shipped_bundle() / "low_level")
    clips = load_dataset("builtin", None, hz=policy.task.hz).train
    chosen = [c for c in clips if c.name.startswith(("walk_forward", "turn_left", "squat", "march"))][:6]
    library = MotionLibrary(chosen, ROBOT, policy.task.hz)
    autoencoder = load_run(_shipped_bundle() / "vae")
    command = build_command_source(policy.task.goal, library, autoencoder, ahead=policy.task.ahead)

    def score(shown):
        return evaluate_tracking(policy, library, shown, robot=ROBOT, config=policy.task, per_run=2, seconds=4.0)

    right, wrong = score(command), score(command.permuted(np.random.default_rng(0)))
    assert wrong["mean_survival_s"] < 0.7 * right["mean_survival_s"] or (
        wrong["joint_error_rad"] > 2.0 * right["joint_error_rad"]
    )
    assert wrong["success_rate"] < right["success_rate"]


def test_task_config_is_the_policys(library):
    task = TrackingTask(ROBOT, library, TaskConfig())
    assert task.observation_size == task.policy_size == 151
