"""Robots that differ, for tests."""

from dataclasses import replace

import numpy as np

from motionlex.data.robots import get_robot
from motionlex.envs.batched import BatchedTracking
from motionlex.envs.reference import CommandSource
from motionlex.envs.task import TrackingTask

ROBOT = get_robot("h1")


def task_with(task, ranges, **changes):
    command = None
    if changes.get("goal") == "latent":
        frames = np.arange(task.library.frames)
        codes = np.random.default_rng(0).integers(0, 32, (1, len(frames) // 16 + 1, 64))
        command = CommandSource(codes=codes, segment=frames // 16, phase=(frames % 16) / 16, vocabulary=32)
    return TrackingTask(ROBOT, task.library, replace(task.config, randomisation=ranges, **changes), command)


def batch(task, worlds, seed=0):
    return BatchedTracking(task, worlds=worlds, threads=1, generator=np.random.default_rng(seed))
