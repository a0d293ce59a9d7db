"""The tracking environments: one robot, many robots, what the policy is shown and where episodes start."""

from dataclasses import replace

import gymnasium
import mujoco
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from motionlex.data import quaternion
from motionlex.data.clip import MotionClip
from motionlex.data.errors import UserError
from motionlex.data.robots import get_robot
from motionlex.envs.alignment import approach, carry, move_under
from motionlex.envs.batched import BatchedTracking
from motionlex.envs.benchmark import benchmark_task
from motionlex.envs.episodes import Episodes
from motionlex.envs.reference import CommandSource, MotionLibrary, settle, smooth, valid_runs
from motionlex.envs.registration import ENVIRONMENT_ID, register
from motionlex.envs.rewards import BodyState
from motionlex.envs.simulator import Simulator, substeps
from motionlex.envs.start_sampler import StartSampler
from motionlex.envs.task import TrackingTask
from motionlex.envs.task_config import TaskConfig
from motionlex.envs.tracking import H1Track

ROBOT = get_robot("h1")


@pytest.fixture(scope="module")
def task():
    return benchmark_task(50.0)


def latent_command(library, seed=0):
    segments = library.frames // 16 + 1
    return CommandSource(
        codes=np.random.default_rng(seed).integers(0, 32, (1, segments, 64)),
        segment=np.arange(library.frames) // 16,
        phase=(np.arange(library.frames) % 16) / 16,
        vocabulary=32,
    )


def variants(task):
    config = task.config
    yield task
    yield TrackingTask(ROBOT, task.library, replace(config, control="torque"))
    yield TrackingTask(ROBOT, task.library, replace(config, goal="latent"), latent_command(task.library))
    yield TrackingTask(ROBOT, task.library, replace(config, reward="loco_mujoco"))


def test_batch_and_single_environments_give_the_same_numbers(task):
    for variant in variants(task):
        draw = np.random.default_rng(3)
        frames = np.array([0, 57, 300])
        batch = BatchedTracking(variant, worlds=3, threads=2, generator=draw)
        singles = [H1Track(variant) for _ in frames]
        seen = batch.reset_to(frames)
        alone = np.stack([env.reset(seed=0, options={"frame": int(f)})[0] for env, f in zip(singles, frames)])
        np.testing.assert_allclose(seen, alone, atol=1e-9)
        alive = [True] * 3
        for _ in range(100):
            action = draw.normal(0.0, 0.3, (3, 19))
            seen, reward, done, infos = batch.step(action)
            for row, env in enumerate(singles):
                if not alive[row]:
                    continue
                observation, value, terminated, truncated, _ = env.step(action[row])
                expected = infos[row]["terminal_observation"] if done[row] else seen[row]
                np.testing.assert_allclose(observation, expected, atol=1e-9)
                assert value == pytest.approx(reward[row], abs=1e-9)
                assert (terminated or truncated) == done[row]
                alive[row] = not done[row]
        batch.close()


def test_gymnasium_accepts_the_environment(task):
    register()
    env = gymnasium.make(ENVIRONMENT_ID, task=task)
    check_env(env.unwrapped, skip_render_check=True)
    assert env.observation_space.shape == (151,) and env.action_space.shape == (19,)


def test_many_threads_give_the_numbers_of_one(task):
    states = []
    for threads in (1, 3):
        env = BatchedTracking(task, worlds=7, threads=threads, generator=np.random.default_rng(0))
        env.reset()
        for _ in range(20):
            env.step(np.full((7, 19), 0.1))
        states.append(env.state.copy())
        env.close()
    np.testing.assert_array_equal(*states)


def test_recorded_ctrl_replays_through_plain_steps(task):
    simulator = Simulator(ROBOT)
    trace = []
    simulator.recorders.append(lambda data: trace.append((data.ctrl.copy(), data.qpos.copy())))
    simulator.reset(task.library.qpos[10], task.library.qvel[10])
    for frame in range(40):
        simulator.step(task.library.qpos[10 + frame, 7:])
    assert len(trace) == 40 * 4
    model = ROBOT.model(control="pd")
    data = mujoco.MjData(model)
    data.qpos[:], data.qvel[:] = task.library.qpos[10], task.library.qvel[10]
    for ctrl, qpos in trace:
        data.ctrl[:] = ctrl
        mujoco.mj_step(model, data)
        np.testing.assert_array_equal(data.qpos, qpos)
    assert data.qfrc_applied.any() == data.xfrc_applied.any() == False  # noqa: E712


@pytest.mark.parametrize("goal", ["reference", "latent"])
def test_replaying_the_reference_scores_the_maximum(task, goal):
    if goal == "latent":
        task = TrackingTask(ROBOT, task.library, replace(task.config, goal=goal), latent_command(task.library))
    episodes = Episodes.empty(4, 19)
    frames = np.array([0, 100, 200, 300])
    task.start(episodes, np.arange(4), frames)
    still, qpos, qvel = np.zeros((4, 19)), task.library.qpos[frames + 1], task.library.qvel[frames + 1]
    at_rest = qpos[:, 7:] + ROBOT.damping / ROBOT.stiffness * qvel[:, 6:]  # servo targets that ask for no torque
    result = task.advance(episodes, qpos, qvel, still, at_rest)
    # The weights sum to one. Goal latent moves the reference, whose key points are in single precision: at most 1 um
    # within 8 m of the origin, whose square costs less than 1e-12.
    np.testing.assert_allclose(result.reward, 0.1, rtol=0, atol=1e-15 if goal == "reference" else 1e-12)
    assert not result.terminated.any() and not result.truncated.any()


def test_servo_targets_per_goal(task):
    action = np.full((1, 19), 2.0)
    episodes = Episodes.empty(1, 19)
    task.start(episodes, np.array([0]), np.array([50]))
    np.testing.assert_allclose(task.control(episodes, action)[0], task.library.qpos[51, 7:] + 0.6)
    latent = TrackingTask(ROBOT, task.library, replace(task.config, goal="latent"), latent_command(task.library))
    for frame in (0, 50):
        latent.start(episodes, np.array([0]), np.array([frame]))
        np.testing.assert_allclose(latent.control(episodes, action)[0], ROBOT.default_pose + 1.5)
    torque = TrackingTask(ROBOT, task.library, replace(task.config, control="torque"))
    np.testing.assert_allclose(torque.control(episodes, np.ones((1, 19)))[0], ROBOT.torque_limit)


def test_latent_policy_sees_codes_and_proprioception_only(task):
    latent = TrackingTask(ROBOT, task.library, replace(task.config, goal="latent"), latent_command(task.library))
    assert latent.policy_size == 64 + 1 + 19 + 19 + 3 + 3 + 19
    episodes = Episodes.empty(1, 19)
    latent.start(episodes, np.array([0]), np.array([33]))
    seen = latent.observe(task.library.qpos[33:34], task.library.qvel[33:34], episodes)
    np.testing.assert_array_equal(seen[0, :64], latent.command.codes[0, 2])
    assert seen[0, 64] == 1 / 16
    elsewhere = task.library.qpos[33:34] + np.array([5.0, -3.0, 0.0] + [0.0] * 23)
    again = latent.observe(elsewhere, task.library.qvel[33:34], episodes)
    mine = latent.policy_size
    np.testing.assert_allclose(again[:, :mine], seen[:, :mine], atol=1e-9)  # the actor does not know the place
    episodes.place[:, :2] += [5.0, -3.0]
    again = latent.observe(elsewhere, task.library.qvel[33:34], episodes)
    np.testing.assert_allclose(again, seen, atol=1e-9)  # the critic knows it relative to the reference's alone


def test_episode_ends_with_the_motion_and_with_time(task):
    short = TrackingTask(ROBOT, task.library, replace(task.config, episode_s=0.1))
    episodes = Episodes.empty(2, 19)
    last = task.library.frames - 1
    short.start(episodes, np.arange(2), np.array([0, last - 2]))
    ends = []
    for _ in range(5):
        frame = np.minimum(episodes.frame + 1, last)
        still, qpos = np.zeros((2, 19)), task.library.qpos[frame]
        result = short.advance(episodes, qpos, task.library.qvel[frame], still, qpos[:, 7:])
        ends.append(result.truncated.tolist())
        assert not result.terminated.any()
        episodes.frame = np.minimum(episodes.frame, last - 1)
    assert [e[0] for e in ends] == [False] * 4 + [True]
    assert ends[1][1]


def test_a_diverged_world_restarts_and_is_counted(task):
    env = BatchedTracking(task, worlds=3, threads=1, generator=np.random.default_rng(0))
    env.reset_to(np.array([0, 10, 20]))
    env.state[1, 30] = np.nan
    seen, reward, done, _ = env.step(np.zeros((3, 19)))
    assert done[1] and reward[1] == 0.0 and env.diverged == 1
    assert np.isfinite(seen).all() and np.isfinite(env.state).all()
    env.close()


def test_nobody_starts_where_nothing_comes_after(task):
    """The frame after the last of a motion is the first of another one, or none."""
    library, last = task.library, int(task.library.run_stops[0]) - 1
    env = H1Track(task)
    env.reset(options={"frame": last - 1})
    assert env.step(np.zeros(19, dtype=np.float32))[3]  # the motion is over
    for frame, said in ((last, "nothing to follow"), (library.frames, "none of the motions'"), (-1, "none of the")):
        with pytest.raises(UserError, match=said):
            env.reset(options={"frame": frame})
        batch = BatchedTracking(task, worlds=2, threads=1, generator=np.random.default_rng(0))
        with pytest.raises(UserError, match=said):
            batch.reset_to(np.array([0, frame]))
        batch.close()


def test_frames_that_are_not_valid_are_never_used():
    qpos = np.tile(np.concatenate(([0, 0, 1, 1, 0, 0, 0], ROBOT.default_pose)), (200, 1))
    qpos[100:, 0] = 50.0  # a teleport, masked
    valid = np.ones(200, dtype=bool)
    valid[98:102] = False
    clip = MotionClip(name="jump", qpos=qpos, hz=50.0, valid=valid)
    assert valid_runs(clip) == [(0, 98), (102, 200)]
    library = MotionLibrary([clip], ROBOT, 50.0)
    assert np.abs(library.qvel[:, :3]).max() == 0.0
    starts = StartSampler(library).sample(np.random.default_rng(0).random((2, 2000)))
    assert (library.last_frame[starts] - starts >= 10).all()
    with pytest.raises(UserError, match="no stretch"):
        MotionLibrary([clip.slice(90, 110)], ROBOT, 50.0)


def test_starts_go_where_the_policy_fails(task):
    sampler = StartSampler(task.library, uniform_share=0.3, rate=1.0)
    frames = task.library.frames
    sampler.update(np.array([0]), np.array([frames - 1]), np.array([False]))  # everything passed
    sampler.update(np.array([260]), np.array([270]), np.array([True]))  # bin [250, 275) lost
    assert np.flatnonzero(sampler.failure[0]).tolist() == [10]
    sampler.failure[1] = 0.0  # the start in that bin failed soon, too: the next test's matter
    starts = sampler.sample(np.random.default_rng(0).random((2, 40_000)))
    uniform = 25 / (frames - 10)
    # The bins before it get 0.8, 0.64 and 0.512 of its weight; all four share 70 %, on top of the uniform 30 %.
    for first, weight in ((250, 1.0), (225, 0.8), (200, 0.64), (175, 0.512), (150, 0.0)):
        share = np.mean((starts >= first) & (starts < first + 25))
        assert share == pytest.approx(0.7 * weight / 2.952 + 0.3 * uniform, abs=0.01)


def test_the_share_of_failing_episodes_follows_from_the_bins(task):
    sampler, generator = StartSampler(task.library), np.random.default_rng(4)
    assert sampler.failing_share(10.0) == 1.0  # nothing is proven yet
    sampler.failure[0] = 0.05
    lost = (generator.random((20_000, 20)) < 0.05).any(axis=1).mean()  # 10 s are 20 bins of 0.5 s
    assert sampler.failing_share(10.0) == pytest.approx(lost, abs=0.015)


def test_starts_that_fail_soon_are_repeated_however_many_pass_by(task):
    """Bins of 25 frames: 3 of 4 starts in bin 0 are lost in bin 2, which 40 others pass on their way from bin 1."""
    sampler = StartSampler(task.library, uniform_share=0.3, rate=1.0)
    starts = np.append(np.full(4, 3), np.full(40, 30))
    ends = np.append([60, 60, 60, 200], np.full(40, 399))
    sampler.update(starts, ends, np.append([True, True, True, False], np.zeros(40, dtype=bool)))
    assert sampler.failure[1, 0] == 0.75 and not sampler.failure[1, 1:].any()
    assert sampler.failure[0, 2] == 3 / 44
    late = StartSampler(task.library, rate=1.0)
    late.update(np.array([3]), np.array([100]), np.array([True]))  # lost in bin 4, more than 1.5 s later
    assert not late.failure[1].any()
    sampler.failure[0] = 0.0
    chosen = sampler.sample(np.random.default_rng(0).random((2, 20_000)))
    assert np.mean(chosen < 25) == pytest.approx(0.7 + 0.3 * 25 / (task.library.frames - 10), abs=0.015)


def test_failures_of_several_episodes_average_whatever_their_order(task):
    sampler = StartSampler(task.library, rate=0.1)
    # Bins of 25 frames: three episodes pass bin 4, one of them is lost there, another one in bin 5.
    starts, ends, lost = np.array([105, 101, 110]), np.array([124, 300, 130]), np.array([True, False, True])
    sampler.update(starts, ends, lost)
    kept = 0.9**3
    assert sampler.failure[0, 4] == pytest.approx(kept + (1 - kept) / 3)
    assert sampler.failure[0, 5] == pytest.approx(0.81 + 0.19 / 2)
    assert sampler.failure[0, 3] == 1.0 and sampler.failure[0, 12] == pytest.approx(0.9)
    again = StartSampler(task.library, rate=0.1)
    again.update(starts[::-1], ends[::-1], lost[::-1])
    np.testing.assert_array_equal(again.failure, sampler.failure)


def test_start_noise_has_its_size_and_stays_inside_limits(task):
    qpos, qvel = task.library.qpos[:64], task.library.qvel[:64]
    first = task.perturb(qpos, qvel, np.random.default_rng(5).standard_normal((64, task.start_draws)))
    assert (first[0][:, 7:] >= ROBOT.lower).all() and (first[0][:, 7:] <= ROBOT.upper).all()
    assert np.std(first[0][:, 7:] - qpos[:, 7:]) == pytest.approx(0.05, rel=0.1)
    np.testing.assert_allclose(np.linalg.norm(first[0][:, 3:7], axis=1), 1.0)


def test_reference_moved_under_the_robot_keeps_motion_and_height(task):
    reference = task.library.at(np.array([20, 120]))
    target = task.library.qpos[[40, 80]].copy()
    target[:, :2] = [[3.0, 1.0], [-2.0, 0.5]]
    target[:, 3:7] = [np.cos(0.6), 0, 0, np.sin(0.6)]
    moved = move_under(reference, target)
    np.testing.assert_allclose(moved.qpos[:, :2], target[:, :2])
    np.testing.assert_array_equal(moved.qpos[:, 2], reference.qpos[:, 2])
    np.testing.assert_allclose(
        moved.sites, task.kinematics(moved.qpos), atol=1e-6
    )  # the library keeps single precision
    assert isinstance(moved, BodyState)


def planar_matrix(pose):
    x, y, turn = pose
    return np.array([[np.cos(turn), -np.sin(turn), x], [np.sin(turn), np.cos(turn), y], [0.0, 0.0, 1.0]])


def test_a_carried_pose_composes_planar_motions():
    pose, before, after = np.random.default_rng(3).normal(size=(3, 5, 3))
    for mine, *others, moved in zip(pose, before, after, carry(pose, before, after), strict=True):
        first, second = (planar_matrix(x) for x in others)
        expected = planar_matrix(mine) @ np.linalg.inv(first) @ second
        np.testing.assert_allclose(planar_matrix(moved), expected, atol=1e-12)


def test_a_pose_approaches_another_the_shorter_way_round():
    pose, target = np.array([[1.0, 2.0, 3.0]]), np.array([[3.0, 1.0, -3.0]])
    np.testing.assert_allclose(approach(pose, target, 0.5), [[2.0, 1.5, np.pi]], atol=1e-12)
    np.testing.assert_allclose(approach(pose, target, 1.0)[0, 2] % (2 * np.pi), -3.0 % (2 * np.pi), atol=1e-12)


@pytest.mark.parametrize("hold_s", [0.0, 0.5, 2.0])
def test_goal_latent_pays_for_drift_of_the_heading_up_to_the_time_it_is_held(task, hold_s):
    config = replace(task.config, goal="latent", hold_s=hold_s, episode_s=100.0)
    latent = TrackingTask(ROBOT, task.library, config, latent_command(task.library))
    episodes, start, spin = Episodes.empty(1, 19), 20, 0.2  # rad/s too much
    latent.start(episodes, np.array([0]), np.array([start]))
    rewards = []
    for step in range(1, 401):
        reference = task.library.at(np.array([start + step]))
        ahead = reference.qpos.copy()
        ahead[:, 3:7] = quaternion.multiply(quaternion.from_yaw(np.array([spin * step / 50.0])), ahead[:, 3:7])
        turned = move_under(reference, ahead)
        qpos = turned.qpos.copy()
        qpos[:, :2] = episodes.place[:, :2]  # drift of the heading alone
        result = latent.advance(episodes, qpos, turned.qvel.copy(), np.zeros((1, 19)), qpos[:, 7:])
        assert not result.terminated.any()  # that rule sees the reference under the robot
        rewards.append(float(result.reward[0]))
        heading = quaternion.yaw(qpos[:, 3:7])[0]
    kept = np.exp(-1.0 / (50.0 * hold_s)) if hold_s else 0.0
    lag = spin / 50.0 * kept / (1.0 - kept)  # where gaining a step and losing a share of all of it balance
    gap = (heading - episodes.place[0, 2] + np.pi) % (2 * np.pi) - np.pi
    assert gap == pytest.approx(lag, rel=0.03, abs=1e-9)
    assert (rewards[-1] < rewards[0] - 1e-4) == (hold_s > 0.0)


def test_wrong_rates_and_missing_codes_are_refused(task):
    with pytest.raises(UserError, match="whole number"):
        substeps(60.0, 0.005)
    with pytest.raises(UserError, match="must be equal"):
        TrackingTask(ROBOT, task.library, TaskConfig(hz=100.0))
    with pytest.raises(UserError, match="--vae"):
        TrackingTask(ROBOT, task.library, TaskConfig(goal="latent"))


def test_smoothing_and_settling():
    library = benchmark_task(50.0).library
    qpos = library.qpos.copy()
    qpos[:, 2] += 0.07
    clip = MotionClip(name="floating", qpos=qpos, hz=50.0)
    settled = settle(clip, ROBOT, percentile=0.0)
    feet = [i for i, name in enumerate(ROBOT.sites) if "foot" in name]
    standing = np.concatenate(([0, 0, ROBOT.standing_height, 1, 0, 0, 0], ROBOT.default_pose))[None]
    task_kinematics = benchmark_task(50.0).kinematics
    sole = task_kinematics(standing)[0, feet, 2].min()
    assert task_kinematics(settled.qpos)[:, feet, 2].min() == pytest.approx(sole, abs=1e-9)
    noisy = MotionClip(
        name="noise",
        qpos=qpos + np.pad(0.01 * np.random.default_rng(0).normal(size=(len(qpos), 19)), ((0, 0), (7, 0))),
        hz=50.0,
    )
    assert np.std(smooth(noisy).qvel()[:, 6:]) < 0.7 * np.std(noisy.qvel()[:, 6:])
