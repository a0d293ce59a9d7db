"""What is measured while a batch of robots rolls out."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool

from motionlex.controllers.tracking_metrics import (
    StepRecord,
    heading_error,
    key_point_errors,
    root_drift,
    step_measures,
    transport_cost,
)
from motionlex.envs.batched import BatchedTracking
from motionlex.envs.rewards import BodyState
from motionlex.envs.soles import Soles

Array = np.ndarray


class Recorder:
    """Sums of the measures while a batch runs."""

    def __init__(self, env: BatchedTracking, complete: bool) -> None:
        """Begin with robots at their starts.

        Args:
            env: The batch; it is read, never changed.
            complete: Measure everything; else the local key-point error alone.
        """
        self._env, self._task, self._complete = env, env.task, complete
        self._soles = Soles(env.task.robot)
        self._sums: dict[str, Array] = {}
        self._weights: dict[str, Array] = {}
        count = env.num_envs
        self._way, self._reference_way = np.zeros(count), np.zeros(count)
        self._drift, self._turned = np.zeros(count), np.zeros(count)
        self._earlier: Array | None = None
        self._begun: Array = env.state.copy()

    def before(self) -> None:
        """Keep what the step will change."""
        self._begun = self._env.state.copy()
        self._earlier = self._task.library.at(self._env.episodes.frame).qpos[:, :2]

    def state(self, reference: BodyState, seen: Bool[Array, " env"]) -> BodyState:
        """Return the measured state; robots out of the game get the reference's, which is always made of numbers."""
        qpos = np.where(seen[:, None], self._env.qpos, reference.qpos)
        qvel = np.where(seen[:, None], self._env.qvel, reference.qvel)
        if not self._complete:
            return BodyState(qpos=qpos, qvel=qvel, sites=self._task.kinematics(qpos))
        motion = self._task.kinematics.states(qpos, qvel)
        return BodyState(qpos=qpos, qvel=qvel, sites=motion.position, motion=motion)

    def add(self, state: BodyState, reference: BodyState, kept: Bool[Array, " env"]) -> None:
        """Add one control step of the robots that are still measured."""
        if not self._complete:
            local = key_point_errors(state, reference)[1]
            self._gather({"keypoint_error_local_mm": (local, np.ones(len(local)))}, kept)
            return
        assert state.motion is not None and self._earlier is not None
        torque, speed, limit = self._motors()
        slide, contact = self._soles.sliding(state.motion)
        record = StepRecord(
            state=state,
            reference=reference,
            torque=torque,
            speed=speed,
            torque_limit=limit,
            slide=slide,
            contact=contact,
        )
        self._gather(step_measures(record), kept)
        moved = np.linalg.norm(state.qpos[:, :2] - self._begun[:, 1:3], axis=1)
        self._way += np.where(kept, moved, 0.0)
        self._reference_way += np.where(kept, np.linalg.norm(reference.qpos[:, :2] - self._earlier, axis=1), 0.0)
        self._drift = np.where(kept, root_drift(state, reference), self._drift)
        self._turned = np.where(kept, heading_error(state, reference), self._turned)

    def totals(self) -> tuple[dict[str, Array], dict[str, Array]]:
        """Return sums and weights of all measures."""
        sums, weights = dict(self._sums), dict(self._weights)
        if self._complete:
            frames = weights["energy_j_per_s"]
            for name, last in (("root_drift_m", self._drift), ("heading_drift_rad", self._turned)):
                sums[name], weights[name] = last, (frames > 0) * 1.0
            sums["cost_of_transport"], weights["cost_of_transport"] = transport_cost(
                sums["energy_j_per_s"],
                self._way,
                self._reference_way,
                frames,
                hz=self._task.config.hz,
                mass=self._task.robot.mass,
            )
        return sums, weights

    def _gather(self, pairs: dict[str, tuple[Array, Array]], kept: Bool[Array, " env"]) -> None:
        for name, (value, weight) in pairs.items():
            none = np.zeros(len(kept))
            self._sums[name] = self._sums.get(name, none) + np.where(kept, value, 0.0)
            self._weights[name] = self._weights.get(name, none) + np.where(kept, weight, 0.0)

    def _motors(self) -> tuple[Array, Array, Array]:
        """Return torques [N m] and hinge velocities [rad/s] when every physics step begins, and the limits [N m]."""
        env, task, drawn = self._env, self._task, self._env.disturbances.parameters
        limit = task.robot.torque_limit[None] * (1.0 if drawn is None else drawn.strength)
        states = np.nan_to_num(np.concatenate((self._begun[:, None], env.passed[:, :-1]), axis=1))
        qpos, qvel = states[..., 1 : 1 + env.qpos.shape[1]], states[..., 1 + env.qpos.shape[1] :]
        steps = range(states.shape[1])
        shares = [task.motors.torque_share(env.held[:, k], qpos[:, k], qvel[:, k], parameters=drawn) for k in steps]
        return np.stack(shares, axis=1) * limit[:, None], qvel[..., 6:], limit
