"""Features against hand-built poses, analytic velocities and scipy; segments against enumeration."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from motionlex.data import features as F
from motionlex.data import quaternion
from motionlex.data.clip import MotionClip
from motionlex.data.errors import UserError
from motionlex.data.kinematics import ForwardKinematics
from motionlex.data.robots import get_robot
from motionlex.data.segments import SegmentSource

ROBOT = get_robot("h1")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MOTIONLEX_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def kinematics():
    return ForwardKinematics(ROBOT)


def _column(name):
    return F.FEATURE_NAMES.index(name)


def _block(name, row):
    first = _column(f"{name}_x")
    return row[first : first + 3]


def _pose(**angles):
    qpos = np.zeros((2, 26))
    qpos[:, 2], qpos[:, 3] = 1.0, 1.0
    for name, angle in angles.items():
        qpos[:, 7 + ROBOT.joint_names.index(name)] = angle
    return qpos


def _moving(seed=0, frames=80, hz=50.0, name="moving"):
    """Everything moves smoothly: root path, all three rotations, hinges; amplitudes as of a lively person."""
    rng = np.random.default_rng(seed)
    time = np.arange(frames) / hz

    def waves(count, amplitude):
        phase, rate = rng.uniform(0, 6, count), rng.uniform(2, 6, count)
        return amplitude * np.sin(rate * time[:, None] + phase)

    turns = Rotation.from_euler("ZYX", waves(3, 0.5) + np.array([rng.uniform(-3, 3), 0.0, 0.0]))
    root = np.roll(turns.as_quat(), 1, axis=-1)
    path = np.cumsum(waves(3, 0.02) + rng.normal(size=3) * np.array([0.01, 0.01, 0.0]), axis=0)
    path[:, 2] += 1.0
    return MotionClip(name=name, qpos=np.concatenate((path, root, waves(19, 0.4)), axis=1), hz=hz)


def _world_features(clip, kinematics):
    return F.compute_features(clip.qpos, clip.qvel(), kinematics)


def test_schema_has_127_distinct_names_and_its_blocks_cover_them():
    assert len(F.FEATURE_NAMES) == len(set(F.FEATURE_NAMES)) == 127
    blocks = (F.HEIGHT, F.QUATERNION, F.JOINTS, F.LINEAR_VELOCITY, F.ANGULAR_VELOCITY, F.JOINT_VELOCITIES)
    blocks += (F.SITE_POSITIONS, F.SITE_ROTATIONS)
    assert [i for b in blocks for i in range(b.start, b.stop)] == list(range(127))
    assert not any("head" in name or "upper_body" in name for name in F.FEATURE_NAMES)


def test_hand_built_poses_give_known_rotations(kinematics):
    qpos = _pose(back_bkz=0.3, left_elbow=0.7)
    row = F.compute_features(qpos, np.zeros((2, 25)), kinematics)[0]
    # The torso turns by +0.3 about z, so the pelvis and the legs are seen turned by -0.3.
    for site in ("pelvis_mimic", "left_hip_mimic", "right_foot_mimic"):
        np.testing.assert_allclose(_block(f"rotation_{site}", row), [0, 0, -0.3], atol=1e-9)
    np.testing.assert_allclose(_block("rotation_left_hand_mimic", row), [0, 0.7, 0], atol=1e-6)
    # The model file writes the shoulder's tilt with six digits, which cancels to 1e-6.
    np.testing.assert_allclose(_block("rotation_right_hand_mimic", row), 0.0, atol=1e-6)


def test_hand_built_poses_give_known_positions(kinematics):
    qpos = _pose()
    qpos[1, 3:7] = quaternion.from_yaw(np.pi / 2)
    straight, turned = F.compute_features(qpos, np.zeros((2, 25)), kinematics)
    hip = _block("position_left_hip_mimic", straight) - _block("position_pelvis_mimic", straight)
    np.testing.assert_allclose(hip, [0.05, 0.0875, -0.1742], atol=1e-9)  # the body offset plus the site's 5 cm
    hip = _block("position_left_hip_mimic", turned) - _block("position_pelvis_mimic", turned)
    np.testing.assert_allclose(hip, [-0.0875, 0.05, -0.1742], atol=1e-9)  # x -> y, y -> -x
    assert straight[_column("root_height")] == 1.0


def test_velocities_are_the_derivatives_of_the_motion(kinematics):
    hz, rate = 50.0, 1.2
    time = np.arange(40) / hz
    qpos = np.tile(_pose()[:1], (40, 1))
    qpos[:, 0], qpos[:, 1] = 0.5 * time**2, 2 * time  # central differences are exact on parabolas
    qpos[:, 3:7] = quaternion.from_yaw(rate * time)
    qpos[:, 7 + 3] = 0.1 + 0.4 * time
    clip = MotionClip(name="analytic", qpos=qpos, hz=hz)
    middle = _world_features(clip, kinematics)[1:-1]
    np.testing.assert_allclose(middle[:, F.LINEAR_VELOCITY][:, 0], time[1:-1], atol=1e-9)
    np.testing.assert_allclose(middle[:, F.LINEAR_VELOCITY][:, 1], 2.0, atol=1e-9)
    np.testing.assert_allclose(middle[:, F.ANGULAR_VELOCITY], np.tile([0, 0, rate], (38, 1)), atol=1e-9)
    np.testing.assert_allclose(middle[:, _column(f"velocity_{ROBOT.joint_names[3]}")], 0.4, atol=1e-9)


@pytest.mark.parametrize("yaw", [0.4, -2.9, 3.1])
def test_heading_features_do_not_see_where_the_clip_is(kinematics, yaw):
    clip = _moving(1)
    moved = clip.qpos.copy()
    moved[:, :3] = Rotation.from_euler("z", yaw).apply(moved[:, :3])
    moved[:, :2] += (3.0, -7.0)
    turned = Rotation.from_euler("z", yaw) * Rotation.from_quat(np.roll(moved[:, 3:7], -1, axis=1))
    moved[:, 3:7] = np.roll(turned.as_quat(), 1, axis=1)
    moved[::3, 3:7] *= -1  # q and -q are one rotation
    other = MotionClip(name="moved", qpos=moved, hz=clip.hz)
    a, yaw_a = F.to_heading(_world_features(clip, kinematics))
    b, yaw_b = F.to_heading(_world_features(other, kinematics))
    np.testing.assert_allclose(a, b, atol=1e-9)
    assert np.angle(np.exp(1j * (yaw_b - yaw_a - yaw))) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("frame", [0, 7, -1])
def test_reference_frame_gets_zero_yaw_and_positive_w(kinematics, frame):
    batch = np.stack([_world_features(_moving(seed), kinematics)[:32] for seed in range(6)])
    turned, _ = F.to_heading(batch, frame)
    quaternions = turned[..., F.QUATERNION]
    forward = Rotation.from_quat(np.roll(quaternions[:, frame], -1, axis=-1)).apply([1, 0, 0])
    np.testing.assert_allclose(forward[:, 1], 0, atol=1e-12)
    assert (forward[:, 0] > 0).all() and (quaternions[:, frame, 0] >= 0).all()
    assert (np.sum(quaternions[:, 1:] * quaternions[:, :-1], axis=-1) > 0).all()


def test_inverse_recovers_the_motion(kinematics):
    clips = [_moving(seed) for seed in range(4)]
    features = np.stack([_world_features(clip, kinematics) for clip in clips])
    turned, yaw = F.to_heading(features)
    starts = np.stack([clip.qpos[0, :2] for clip in clips])
    qpos, qvel = F.features_to_state(turned, hz=50.0, start_xy=starts, start_yaw=yaw)
    for i, clip in enumerate(clips):
        # Bound of the trapezoidal rule on central differences, from the accelerations of this very clip.
        acceleration = np.abs(np.diff(clip.qpos[:, :2], 2, axis=0)).max() * 50.0**2
        assert np.abs(qpos[i, 1:-1, :2] - clip.qpos[1:-1, :2]).max() < acceleration / 50.0**2
        np.testing.assert_allclose(qpos[i, :, 2], clip.qpos[:, 2], atol=1e-12)
        np.testing.assert_allclose(qpos[i, :, 7:], clip.qpos[:, 7:], atol=1e-12)
        assert quaternion.angle_between(qpos[i, :, 3:7], clip.qpos[:, 3:7]).max() < 1e-7
        np.testing.assert_allclose(qvel[i], clip.qvel(), atol=1e-9)


def test_inverse_integrates_a_constant_velocity_exactly():
    features = np.zeros((32, 127))
    features[:, 1], features[:, F.LINEAR_VELOCITY.start] = 2.0, 1.5  # an unnormalised quaternion, too
    qpos, _ = F.features_to_state(features, hz=50.0, start_xy=np.array([1.0, 2.0]), start_yaw=np.array(np.pi / 2))
    np.testing.assert_allclose(qpos[:, 0], 1.0, atol=1e-12)
    np.testing.assert_allclose(qpos[:, 1], 2.0 + 1.5 * np.arange(32) / 50, atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(qpos[:, 3:7], axis=1), 1.0, atol=1e-12)


def test_statistics_equal_two_passes_over_everything():
    rng = np.random.default_rng(3)
    data = rng.normal(size=(997, 127)) * rng.uniform(0.01, 5, 127) + 1e4 * rng.normal(size=127)
    data[:, [4, 90]] = 0.25 + 1e-4 * rng.normal(size=(997, 2))  # variance 1e-8: dropped
    blocks = np.split(data, [1, 40, 700])
    statistics = F.fit_statistics(blocks, hz=50.0)
    kept = np.setdiff1d(np.arange(127), [4, 90])
    np.testing.assert_array_equal(statistics.kept, kept)
    np.testing.assert_allclose(statistics.mean, data.mean(0)[kept], rtol=1e-12)
    np.testing.assert_allclose(statistics.std, data.std(0)[kept], rtol=1e-9)
    np.testing.assert_array_equal(statistics.minimum, data.min(0)[kept])
    np.testing.assert_array_equal(statistics.maximum, data.max(0)[kept])
    standard = statistics.standardise(data)
    assert standard.shape == (997, 125) == (997, statistics.size)
    back = statistics.destandardise(standard)
    np.testing.assert_allclose(back[:, kept], data[:, kept], rtol=1e-9)
    np.testing.assert_allclose(back[:, [4, 90]], 0.25, atol=1e-4)


def test_statistics_survive_arrays_and_refuse_another_schema():
    statistics = F.fit_statistics([np.random.default_rng(0).normal(size=(64, 127))], hz=30.0, frame="world")
    arrays = statistics.to_dict()
    again = F.FeatureStatistics.from_dict(arrays)
    assert (again.frame, again.hz, again.size) == ("world", 30.0, 127)
    np.testing.assert_array_equal(again.std, statistics.std)
    with pytest.raises(UserError, match="schema version 99"):
        F.FeatureStatistics.from_dict({**arrays, "schema_version": np.array([99])})
    with pytest.raises(UserError, match="damaged"):
        F.FeatureStatistics.from_dict({k: v for k, v in arrays.items() if k != "mean"})
    with pytest.raises(UserError, match="not one training segment"):
        F.fit_statistics([], hz=30.0)


def test_segments_are_drawn_uniformly_over_all_valid_starts(kinematics):
    long, short = _moving(0, frames=50), _moving(1, frames=33)
    mask = np.ones(50, dtype=bool)
    mask[12] = False
    masked = MotionClip(name="masked", qpos=long.qpos, hz=50.0, valid=mask)
    source = SegmentSource([masked, short], kinematics=kinematics)
    source.fit(stride=1)
    expected = [[0, frame] for frame in range(13, 19)] + [[1, 0], [1, 1]]
    assert source.starts.tolist() == expected and len(source) == 8
    segments = torch.stack([source.segment(clip, frame) for clip, frame in expected])
    torch.testing.assert_close(source.all_segments(1), segments)
    drawn = source.sample(4000, torch.Generator().manual_seed(0))
    nearest = (drawn[:, 0, None] - segments[None, :, 0]).abs().sum(-1).argmin(1)
    torch.testing.assert_close(drawn, segments[nearest])
    counts = np.bincount(nearest.numpy(), minlength=8)
    assert np.abs(counts - 500).max() < 5 * np.sqrt(500 * 7 / 8)  # five standard deviations
    repeated = source.sample(4000, torch.Generator().manual_seed(0))
    assert torch.equal(drawn, repeated)


def test_segments_are_the_standardised_heading_features_of_their_frames(kinematics):
    clip = _moving(5)
    source = SegmentSource([clip], kinematics=kinematics)
    statistics = source.fit()
    expected, _ = F.to_heading(_world_features(clip, kinematics)[11:43])
    expected = (expected[:, statistics.kept] - statistics.mean) / statistics.std
    np.testing.assert_allclose(source.segment(0, 11).numpy(), expected, atol=2e-4)  # float32, small std
    held_out = SegmentSource([_moving(6)], statistics, kinematics=kinematics)
    assert held_out.sample(3, torch.Generator().manual_seed(0)).shape == (3, 32, statistics.size)


def test_long_clips_come_from_the_cache_and_mistakes_are_named(kinematics, tmp_path):
    clip = _moving(7, frames=1200)
    first = SegmentSource([clip], kinematics=kinematics).world_features(0)
    assert len(list((tmp_path / "cache").glob("features-*.npz"))) == 1
    np.testing.assert_array_equal(SegmentSource([clip], kinematics=kinematics).world_features(0), first)
    np.testing.assert_allclose(first, _world_features(clip, kinematics), atol=1e-5)
    with pytest.raises(UserError, match="one rate"):
        SegmentSource([clip, _moving(hz=30.0)], kinematics=kinematics)
    with pytest.raises(UserError, match="32 valid frames"):
        SegmentSource([_moving(frames=31)], kinematics=kinematics)
    with pytest.raises(UserError, match="no clips"):
        SegmentSource([], kinematics=kinematics)


@pytest.mark.skipif("MOTIONLEX_LAFAN1" not in os.environ, reason="MOTIONLEX_LAFAN1 names no folder")
def test_lafan_keeps_121_of_127_features(kinematics):
    """The two numbers of the DAPS paper; a hip and the pelvis see the torso turn about z only."""
    from motionlex.data.datasets.lafan1 import load

    data = load(Path(os.environ["MOTIONLEX_LAFAN1"]), 30.0)
    if len(data.train) != 36:
        pytest.skip("the folder holds only some of the clips")
    source = SegmentSource(data.train, kinematics=kinematics)
    sites = ("pelvis_mimic", "left_hip_mimic", "right_hip_mimic")
    for frame in ("heading0", "world"):
        statistics = source.fit(frame=frame)
        dropped = [name for i, name in enumerate(F.FEATURE_NAMES) if i not in statistics.kept]
        assert dropped == [f"rotation_{site}_{axis}" for site in sites for axis in "xy"]
        assert statistics.size == 121
