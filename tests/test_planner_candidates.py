"""Of several segments that are drawn along a desired path, the nearest is taken."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from motionlex.controllers.bundle import load_bundle
from motionlex.controllers.code_sampling import SamplingConfig
from motionlex.controllers.latent_policy import LatentPolicy
from motionlex.controllers.planner import DesiredPath, Planner
from motionlex.data.errors import UserError
from motionlex.data.features import compute_features
from motionlex.data.kinematics import ForwardKinematics
from motionlex.data.robots import get_robot
from motionlex.motion_vae.checkpoint import TrainedAutoencoder

HZ = 50.0
SPEEDS = (0.0, 0.5, 1.0)
TURNS = (0.0, 0.8, -0.8)
CHOICES = list(itertools.product(SPEEDS, TURNS))


@pytest.fixture(scope="module")
def kinematics():
    return ForwardKinematics(get_robot("h1"))


@pytest.fixture(scope="module")
def standing():
    robot = get_robot("h1")
    return np.concatenate(([0.0, 0.0, robot.standing_height, 1.0, 0.0, 0.0, 0.0], robot.default_pose))


@pytest.fixture
def plan(tiny_bundle, monkeypatch, kinematics, standing):
    """Plan one segment with trained parts replaced by toys: code k is a stiff pose that slides as its choice says."""
    bundle, time, rows = load_bundle(tiny_bundle), np.arange(32) / HZ, []
    for speed, turn in CHOICES:
        qpos, qvel = np.repeat(standing[None], 32, axis=0), np.zeros((32, 25))
        qpos[:, 0], qvel[:, 0], qvel[:, 5] = speed * time, speed, turn
        qpos[:, 3], qpos[:, 6] = np.cos(turn * time / 2), np.sin(turn * time / 2)
        rows.append(compute_features(qpos, qvel, kinematics))
    features, drawn = np.stack(rows), []

    def decode(self, indices):
        return features[indices[:, 0].numpy()]

    def sample(self, conditions, generator, sampling, *, samples):
        assert len(conditions.history) == 1
        drawn.extend(torch.randperm(len(CHOICES), generator=generator)[:samples].tolist())
        return torch.tensor(drawn)[:, None].repeat(1, 64), torch.zeros(len(drawn))

    monkeypatch.setattr(TrainedAutoencoder, "decode_features", decode)
    monkeypatch.setattr(LatentPolicy, "sample", sample)

    def run(candidates: int, path: DesiredPath | None) -> tuple[tuple[float, float], list[tuple[float, float]]]:
        planner = Planner(
            bundle.autoencoder, bundle.latent_policy, kinematics,
            hz=HZ, sampling=SamplingConfig(candidates=candidates), generator=torch.Generator().manual_seed(3),
        )  # fmt: skip
        planner.reset(standing)
        segment = planner.replan(torch.zeros(1, 384), path)
        return CHOICES[int(segment.codes[0])], [CHOICES[index] for index in drawn]

    return run


@pytest.fixture
def straight(kinematics, standing):
    """Where the centre of mass should be in each of the coming frames."""

    def path(speed: float, yaw: float | None = None) -> DesiredPath:
        time = np.arange(1, 33) / HZ
        moved = np.stack([speed * time, 0 * time], axis=1)
        return DesiredPath(
            xy=kinematics(standing[None]).com[:, :2] + moved, yaw=None if yaw is None else yaw * time / time[-1]
        )

    return path


@pytest.mark.parametrize("wanted", SPEEDS)
def test_the_candidate_nearest_to_the_path_is_taken(wanted, plan, straight):
    chosen, drawn = plan(len(CHOICES), straight(wanted, yaw=0.0))
    assert len(drawn) == len(CHOICES)
    assert chosen == (wanted, 0.0)


def test_headings_count_where_they_are_given(plan, straight):
    # A stiff pose that turns by 0.8 rad/s has turned by about 0.5 rad at the end of 0.64 s.
    chosen, _ = plan(len(CHOICES), straight(0.5, yaw=0.5))
    assert chosen == (0.5, 0.8)


def test_one_draw_is_taken_as_it_comes(plan, straight):
    _, drawn = plan(1, straight(0.5))
    assert len(drawn) == 1


def test_nothing_is_compared_without_a_path(plan):
    chosen, drawn = plan(5, None)
    assert [chosen] == drawn


def test_candidates_are_counted_from_one():
    with pytest.raises(UserError, match="candidates"):
        SamplingConfig(candidates=0)
