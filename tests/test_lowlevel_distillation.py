"""A latent policy imitates a policy that sees the motion."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from motionlex.controllers.distillation import Distillation, DistillationConfig, _Memory, check_teacher, teacher_actions
from motionlex.controllers.low_level_policy import LowLevelPolicy, PolicyShape
from motionlex.data.errors import UserError
from motionlex.data.robots import get_robot
from motionlex.envs.batched import BatchedTracking
from motionlex.envs.benchmark import benchmark_task
from motionlex.envs.observations import tracking_observation
from motionlex.envs.reference import CommandSource
from motionlex.envs.task import TrackingTask
from motionlex.envs.task_config import TaskConfig

ROBOT = get_robot("h1")


@pytest.fixture(scope="module")
def task():
    base = benchmark_task(50.0)
    frames = base.library.frames
    command = CommandSource(
        codes=np.random.default_rng(0).integers(0, 32, (1, frames // 16 + 1, 64)),
        segment=np.arange(frames) // 16,
        phase=(np.arange(frames) % 16) / 16,
        vocabulary=32,
    )
    return TrackingTask(ROBOT, base.library, replace(base.config, goal="latent"), command)


def make_teacher(action_limit=4.0):
    torch.manual_seed(0)
    shape = PolicyShape(observation=151, critic_observation=151, actions=19, action_limit=action_limit, hidden=(16,))
    teacher = LowLevelPolicy(shape, TaskConfig()).eval()
    torch.nn.init.normal_(teacher.actor[-1].weight, std=0.1)
    return teacher


def make_student(task):
    torch.manual_seed(1)
    shape = PolicyShape(
        observation=task.policy_size, critic_observation=task.observation_size, actions=19, action_limit=4.0,
        hidden=(64,), tokens=64, vocabulary=32, code_width=8,
    )  # fmt: skip
    student = LowLevelPolicy(shape, task.config)
    student.set_codebook(torch.randn(32, 8))
    return student


def test_the_students_action_reaches_the_teachers_target(task):
    teacher, library = make_teacher(), task.library
    env = BatchedTracking(task, worlds=2, threads=1, generator=np.random.default_rng(0))
    env.reset_to(np.array([40, 200]))
    seen = task.observe(env.qpos, env.qvel, env.episodes)
    label = teacher_actions(teacher, task, seen)
    reached = task.control(env.episodes, label)
    # By hand: the robot stands exactly on the reference, so the teacher sees the library itself. Its own last action
    # is what would have given the student's last target, the default pose.
    frames = np.array([40, 200])
    goals = np.stack([library.qpos[frames + 1], library.qpos[frames + 8]], axis=1)
    speeds = np.stack([library.qvel[frames + 1], library.qvel[frames + 8]], axis=1)
    following = library.qpos[frames + 1, 7:]
    last = np.clip((ROBOT.default_pose - following) / 0.3, -4, 4)
    view = tracking_observation(library.qpos[frames], library.qvel[frames], last, goals, speeds)
    np.testing.assert_allclose(reached, following + 0.3 * teacher.act(view), atol=1e-5)  # float32 networks
    env.close()


def test_what_the_student_did_is_told_within_the_teachers_own_limit(task):
    """A teacher that never does more than 0.25 is not told that it did, either."""
    teacher, library = make_teacher(action_limit=0.25), task.library
    env = BatchedTracking(task, worlds=1, threads=1, generator=np.random.default_rng(0))
    env.reset_to(np.array([50]))
    seen = []
    teacher.act = lambda x: seen.append(x) or np.zeros((1, 19))
    teacher_actions(teacher, task, task.observe(env.qpos, env.qvel, env.episodes))
    last = seen[0][0, 48:67]  # after 19 angles, 19 velocities, gravity 3, velocities 6, height 1
    wanted = (ROBOT.default_pose - library.qpos[51, 7:]) / 0.3
    assert np.abs(wanted).max() > 0.4  # deepest point of the knee bends
    np.testing.assert_allclose(last, np.where(np.abs(wanted) > 0.25, 0.25 * np.sign(wanted), wanted), atol=1e-5)
    env.close()


def test_the_memory_gives_what_it_holds_on_the_students_device():
    memory = _Memory(10, 3, 2, torch.device("meta"))
    memory.add(np.zeros((4, 3)), np.zeros((4, 2)))
    assert [x.device.type for x in memory.draw(5, torch.Generator())] == ["meta", "meta"]


def test_imitation_lowers_the_loss(task):
    losses = []
    for steps in (256, 6400):
        env = BatchedTracking(task, worlds=8, threads=1, generator=np.random.default_rng(0))
        config = DistillationConfig(steps=steps, horizon=16, updates=8, minibatch=128, memory=4000)
        scores = Distillation(make_student(task), make_teacher(), env, config, torch.Generator().manual_seed(0)).run()
        losses.append(scores["distillation_loss"])
        env.close()
    assert losses[1] < 0.5 * losses[0]


def test_teachers_that_cannot_be_asked_are_refused(task):
    teacher = make_teacher()
    with pytest.raises(UserError, match="goal latent"):
        check_teacher(teacher, benchmark_task(50.0))
    teacher.task = TaskConfig(hz=100.0)
    for wrong in (
        TaskConfig(hz=100.0),
        TaskConfig(control="torque"),
        TaskConfig(ahead=(1, 2)),
        TaskConfig(goal="latent"),
    ):
        teacher.task = wrong
        with pytest.raises(UserError, match="wanted goal reference or decoded"):
            check_teacher(teacher, task)
    teacher.task = TaskConfig(goal="decoded")
    check_teacher(teacher, task)


def test_a_memory_that_was_saved_gives_the_same_whether_full_or_not():
    for count in (3, 7):  # of ten places; four rows at a time, so the second one has begun anew
        memory, rng = _Memory(10, 3, 2, torch.device("cpu")), np.random.default_rng(0)
        rows = [(rng.normal(size=(4, 3)), rng.normal(size=(4, 2))) for _ in range(count + 2)]
        for row in rows[:count]:
            memory.add(*row)
        again = _Memory(10, 3, 2, torch.device("cpu"))
        again.restore(memory.state())
        for row in rows[count:]:
            for each in (memory, again):
                each.add(*row)
        drawn = [each.draw(40, torch.Generator().manual_seed(1)) for each in (memory, again)]
        assert all(torch.equal(*pair) for pair in zip(*drawn, strict=True))


def test_progress_is_told_after_every_horizon(task):
    env = BatchedTracking(task, worlds=8, threads=1, generator=np.random.default_rng(0))
    config = DistillationConfig(steps=1024, horizon=16, updates=1, minibatch=32, memory=2000)
    work, steps = Distillation(make_student(task), make_teacher(), env, config, torch.Generator().manual_seed(0)), []
    work.run(lambda: steps.append(work.done))
    assert steps == [128 * k for k in range(1, 9)]
    env.close()
