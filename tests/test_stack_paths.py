"""Commanded paths: their report, on trajectories made by hand, and plans without physics."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from motionlex.controllers.bundle import load_bundle
from motionlex.controllers.code_sampling import SamplingConfig
from motionlex.controllers.evaluation_paths import arc_path, later, path_report, plan_path
from motionlex.controllers.following import Followed
from motionlex.controllers.planner import Planner, Segment
from motionlex.data.kinematics import ForwardKinematics
from motionlex.data.robots import get_robot

HZ = 50.0


def test_an_arc_path_has_the_wanted_speed_and_heading():
    path = arc_path(0.6, 0.2, 8.0)
    step = np.diff(path.xy, axis=0)
    moving = path.time[:-1] >= 1.0
    np.testing.assert_allclose(np.linalg.norm(step[moving], axis=1) / 0.05, 0.6, rtol=1e-4)
    assert path.yaw is not None
    heading = np.arctan2(step[moving, 1], step[moving, 0])
    np.testing.assert_allclose(heading, path.yaw[:-1][moving] + 0.005, atol=1e-6)


def test_path_errors_from_four_seconds_on():
    """One metre beside the path for 4 s, then on it; as fast as wanted; 0.1 rad off in the heading throughout."""
    time = np.arange(400) / HZ
    wanted = np.stack([time, np.zeros(400)], axis=1)
    beside = np.where(time < 4.0, 1.0, 0.0)
    part = Followed(
        measured_xy=np.stack([wanted[:, 0], beside], axis=1),
        measured_yaw=np.full(400, 0.1),
        wanted_xy=wanted,
        wanted_yaw=np.zeros(400),
    )
    astray = replace(part, measured_xy=part.measured_xy + np.array([0.0, 0.9]))
    report = path_report([part, part], [False, False], HZ)
    assert report["path_error_m"] == pytest.approx(0.5) and report["settled"]["path_error_m"] == 0.0
    assert report["heading_error_deg"] == pytest.approx(np.rad2deg(0.1))
    assert report["settled"]["speed_error_mps"] == pytest.approx(0.0, abs=1e-12)
    assert len(report["settled_by_path"]) == 2 and len(later(part, 150).wanted_yaw) == 250
    worse = path_report([part, part, astray], [False, False, True], HZ)
    assert worse["paths"] == 3 and worse["falls"] == 1  # and what fell counts
    assert worse["settled"]["path_error_m"] == pytest.approx(0.3) and worse["settled"]["median_m"] == 0.0
    assert worse["settled"]["close"]["mean"] == pytest.approx(2 / 3)
    low, high = worse["settled"]["path_error_interval_95"]
    assert low == 0.0 and high == pytest.approx(0.9)


def test_a_plan_that_does_what_it_is_shown_is_on_its_path(tiny_bundle, monkeypatch):
    """Segments that stand stiffly and move exactly as the desired path says: no error but while the path changes."""
    bundle, robot = load_bundle(tiny_bundle), get_robot("h1")
    kinematics = ForwardKinematics(robot)
    planner = Planner(
        bundle.autoencoder, bundle.latent_policy, kinematics,
        hz=HZ, sampling=SamplingConfig(), generator=torch.Generator(),
    )  # fmt: skip
    standing = np.concatenate(([0.0, 0.0, robot.standing_height, 1.0, 0.0, 0.0, 0.0], robot.default_pose))
    planner.reset(standing)
    offset = planner.com.copy()

    def obedient(text, path):
        qpos = np.tile(standing, (32, 1))
        qpos[0, :2] = planner.com - offset
        qpos[1:, :2] = path.xy[:31] - offset
        planner.last = qpos
        return Segment(codes=np.zeros(64, dtype=np.int64), qpos=qpos, qvel=np.zeros((32, 25)))

    def commit(executed):
        planner._com = kinematics(planner.last[: executed + 1]).com[:, :2]

    monkeypatch.setattr(planner, "replan", obedient)
    monkeypatch.setattr(planner, "commit", commit)
    path = arc_path(0.6, 0.0, 8.0)
    followed = plan_path(planner, kinematics, path, torch.zeros(1, 384), 8.0)
    assert len(followed.measured_xy) == 400
    np.testing.assert_allclose(followed.measured_xy, followed.wanted_xy, atol=1e-9)
    np.testing.assert_allclose(followed.wanted_xy[-1] - offset, [0.6 * 7.0, 0.0], atol=1e-9)
    np.testing.assert_array_equal(followed.measured_yaw, 0.0)
