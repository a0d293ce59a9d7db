"""Planning the segments of many scripts side by side, as the running stack would plan each of them."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from motionlex.controllers.com_path import VelocityCommand
from motionlex.controllers.command_tours import Script, ScriptedCommand
from motionlex.controllers.conditions import Conditions
from motionlex.controllers.high_level import HighLevel
from motionlex.controllers.latent_data import REPLAN_FRAMES
from motionlex.controllers.path_leading import path_of_plan
from motionlex.controllers.planner import DesiredPath, Planner
from motionlex.data.kinematics import ForwardKinematics
from motionlex.data.robots import get_robot

logger = logging.getLogger(__name__)
Rows = dict[str, np.ndarray]
"""Segments: ``codes`` (segment, token), ``qpos`` and ``qvel`` (segment, 32 frames, ...)."""
_TOGETHER = 64


class _Course:
    """One script on its way: where its plan stands, what it is told now, and the segments so far."""

    def __init__(self, script: Script, planner: Planner, source: HighLevel) -> None:
        self._steps = [(command, part == 0) for command in script for part in range(command.segments)]
        self._planner, self._hz, self._statistics = planner, source.hz, source.autoencoder.statistics
        self._path: VelocityCommand | None = None
        self.made: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    @property
    def finished(self) -> bool:
        return len(self.made) == len(self._steps)

    def next(self) -> tuple[Planner, ScriptedCommand, DesiredPath | None]:
        """Return what plans, what the next segment is told and where it is led; a led command begins where it is."""
        command, begins = self._steps[len(self.made)]
        time, pose = len(self.made) * REPLAN_FRAMES / self._hz, (self._planner.com, self._planner.anchor[1])
        if begins:
            self._path = None
            if command.velocity is not None:
                wanted = VelocityCommand(
                    velocity=np.array(command.velocity[:2]), turn=command.velocity[2],
                    start_s=time, start_xy=pose[0], start_yaw=pose[1],
                )  # fmt: skip
                self._path = wanted.limited(self._statistics)
        if self._path is None:
            return self._planner, command, None
        return self._planner, command, path_of_plan(self._path, self._planner, time, origin=np.zeros(2))

    def take(self, codes: np.ndarray, features: np.ndarray) -> None:
        """Let a segment run."""
        segment = self._planner.place(codes, features)
        self._planner.commit(REPLAN_FRAMES)
        self.made.append((segment.codes, segment.qpos, segment.qvel))


def plan_scripts(
    source: HighLevel, scripts: Sequence[Script], embeddings: Mapping[str, Tensor], generator: torch.Generator
) -> list[Rows]:
    """Plan scripts from standing robots, without physics; led commands follow their path as well as the plan can.

    Args:
        source: High-level policy and autoencoder.
        scripts: What to plan.
        embeddings: Embedding of every text.
        generator: Source of the codes.

    Returns:
        The segments of each script.
    """
    planned: list[Rows] = []
    for first in range(0, len(scripts), _TOGETHER):
        planned += _plan_together(source, scripts[first : first + _TOGETHER], embeddings, generator)
        logger.info("planned %d of %d scripts", len(planned), len(scripts))
    return planned


def _plan_together(
    source: HighLevel, scripts: Sequence[Script], embeddings: Mapping[str, Tensor], generator: torch.Generator
) -> list[Rows]:
    """Plan some scripts: their n-th segments are chosen in one batch, wherever each of them stands."""
    robot = get_robot(source.robot)
    kinematics = ForwardKinematics(robot)
    standing = np.concatenate(([0.0, 0.0, robot.standing_height, 1.0, 0.0, 0.0, 0.0], robot.default_pose))
    courses = []
    for script in scripts:
        planner = Planner(
            source.autoencoder, source.latent_policy, kinematics,
            hz=source.hz, sampling=source.sampling, generator=generator,
        )  # fmt: skip
        planner.reset(standing)
        courses.append(_Course(script, planner, source))
    while active := [course for course in courses if not course.finished]:
        told = [(course, *course.next()) for course in active]
        for along in (False, True):
            group = [each for each in told if (each[-1] is not None) == along]
            _choose(source, group, source.sampling.candidates if along else 1, embeddings, generator)
    names = ("codes", "qpos", "qvel")
    return [
        {name: np.stack(column) for name, column in zip(names, zip(*course.made, strict=True), strict=True)}
        for course in courses
    ]


def _choose(
    source: HighLevel,
    told: Sequence[tuple[_Course, Planner, ScriptedCommand, DesiredPath | None]],
    samples: int,
    embeddings: Mapping[str, Tensor],
    generator: torch.Generator,
) -> None:
    """Choose the next segment of some courses in one batch, each the best of ``samples``."""
    if not told:
        return
    present = [planner.conditions(embeddings[command.text], path) for _, planner, command, path in told]
    conditions = functools.reduce(Conditions.concatenate, present)
    codes, _ = source.latent_policy.sample(conditions, generator, source.sampling, samples=samples)
    decoded = source.autoencoder.decode_features(codes)
    for number, (course, planner, _, path) in enumerate(told):
        row = number * samples + planner.best(decoded[number * samples : (number + 1) * samples], path)
        course.take(codes[row].numpy(), decoded[row])
