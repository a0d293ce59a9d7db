r"""A recorded person's motion on a robot, by inverse kinematics.

The robot takes the directions of the person's limbs with limbs of its own lengths: each knee is wanted at
:math:`x_{hip} + L \, (k - h) / |k - h|`, with x the robot's own joint, L its thigh and h, k the person's hip and knee,
and so on for shins, upper arms and forearms. The pelvis stands upright on the line between the hips along the trunk,
the torso turns with the shoulders, paths shrink or grow with the legs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import mink
import mujoco
import numpy as np
from jaxtyping import Float

from motionlex.data import quaternion
from motionlex.data.errors import UserError
from motionlex.data.ground import clearance
from motionlex.data.human_points import HumanPoints
from motionlex.data.robots import Robot

ITERATIONS = 20
"""Newton steps per frame, at most."""
SETTLED = 1e-4
"""Largest change of a coordinate [m or rad] in the last step."""
FIRST_ITERATIONS = 200
"""For the first frame, which has no frame before it to begin at."""
_STANCE_SHARE = 0.25
"""Share of the frames, those with the lowest toe, in which a foot is taken to be flat."""
_ON_FLOOR = 0.05
"""Quantile of the height above the floor that is set on it."""


@dataclass(frozen=True, kw_only=True)
class _Limb:
    """Two links of the robot and where their directions come from."""

    bodies: tuple[str, str, str]
    points: tuple[str, str, str]
    side: int


def retarget(
    points: HumanPoints, robot: Robot, *, progress: Callable[[int, int], None] | None = None
) -> Float[np.ndarray, "frame coordinate"]:
    """Find the robot's positions for every frame, within its joint limits.

    Args:
        points: The person.
        robot: Needs ``legs`` and ``arms``.
        progress: Called with the frames that are done and all frames.

    Returns:
        Positions as of ``MotionClip.qpos``: beginning above the origin, the soles on the floor for most of the time.

    Raises:
        UserError: If hips and shoulders lie on one line, so that there is no upright, or the robot lacks limbs.
    """
    if len(robot.legs) != 2 or len(robot.arms) != 2:
        raise UserError(f"robot {robot.name!r} names no two legs and two arms: a person's motion does not fit it")
    model = robot.model(control="none")
    solver = _Solver(robot, model)
    scale = sum(solver.lengths[0]) / points.leg_length
    middle, pelvis, torso = _frames(points.hip, points.shoulder)
    _, own_pelvis, own_torso = _frames(*solver.neutral)  # the robot's shoulders are not right above its hips
    pelvis, torso = pelvis @ own_pelvis[0].T, torso @ own_torso[0].T
    root = scale * middle - pelvis @ solver.neutral[0][0].mean(axis=0)
    root[:, :2] -= root[0, :2]
    feet = _foot_frames(points, pelvis)
    directions = {
        (limb.side, begin): _unit(getattr(points, end)[:, limb.side] - getattr(points, begin)[:, limb.side])
        for limb in solver.limbs
        for begin, end in zip(limb.points, limb.points[1:])
    }
    frames = len(root)
    qpos = np.empty((frames, model.nq))
    solver.place(root[0], pelvis[0])
    for frame in range(frames):
        wanted = {key: value[frame] for key, value in directions.items()}
        limit = FIRST_ITERATIONS if frame == 0 else ITERATIONS
        qpos[frame] = solver.solve(root[frame], pelvis[frame], torso[frame], feet[frame], wanted, limit)
        if progress is not None:
            progress(frame + 1, frames)
    qpos[:, 3:7] = quaternion.make_continuous(quaternion.normalise(qpos[:, 3:7]))
    qpos[:, 2] -= np.quantile(clearance(qpos, robot), _ON_FLOOR)
    return qpos


class _Solver:
    """One frame after another, each beginning where the last one ended."""

    def __init__(self, robot: Robot, model: mujoco.MjModel) -> None:
        self.limbs = [
            *(_Limb(bodies=b, points=("hip", "knee", "ankle"), side=i) for i, b in enumerate(robot.legs)),
            *(_Limb(bodies=b, points=("shoulder", "elbow", "hand"), side=i) for i, b in enumerate(robot.arms)),
        ]
        neutral = np.zeros(model.nq)
        neutral[3], neutral[7:] = 1.0, robot.default_pose
        self.configuration = mink.Configuration(model, neutral)
        self.lengths = [_lengths(self.configuration, limb) for limb in self.limbs]
        hips, shoulders = (
            np.array([self._place(limb.bodies[0]) for limb in pair]) for pair in (self.limbs[:2], self.limbs[2:])
        )
        self.neutral = hips[None], shoulders[None]
        """Hips and shoulders of the default pose, seen from the pelvis."""
        self.root = mink.FrameTask(robot.root_body, "body", position_cost=10.0, orientation_cost=10.0)
        self.torso = mink.FrameTask(robot.torso_body, "body", position_cost=0.0, orientation_cost=1.0)
        self.ends = [
            [mink.FrameTask(name, kind, position_cost=1.0, orientation_cost=0.0) for name, kind in _targets(limb)]
            for limb in self.limbs
        ]
        # An ankle without roll: pitch as the person's foot, heading a little, which a straight leg leaves open.
        self.feet = [
            mink.FrameTask(name, "body", position_cost=0.0, orientation_cost=np.array([0.0, 0.1, 0.05]))
            for name in robot.foot_bodies
        ]
        self.posture = mink.PostureTask(model, cost=1e-3)
        self.posture.set_target(neutral)
        self.limits = [mink.ConfigurationLimit(model, gain=1.0)]

    def place(self, position: Float[np.ndarray, " 3"], rotation: Float[np.ndarray, "3 3"]) -> None:
        """Put the default pose somewhere."""
        q = self.configuration.q.copy()
        q[:3], q[3:7] = position, quaternion.from_matrix(rotation)
        self.configuration.update(q)

    def solve(
        self,
        position: Float[np.ndarray, " 3"],
        pelvis: Float[np.ndarray, "3 3"],
        torso: Float[np.ndarray, "3 3"],
        feet: Float[np.ndarray, "2 3 3"],
        directions: dict[tuple[int, str], Float[np.ndarray, " 3"]],
        limit: int,
    ) -> Float[np.ndarray, " coordinate"]:
        """Newton steps until nothing moves; joints stay within their limits in every step."""
        self.root.set_target(_transform(pelvis, position))
        self.torso.set_target(_transform(torso, np.zeros(3)))
        for task, rotation in zip(self.feet, feet):
            task.set_target(_transform(rotation, np.zeros(3)))
        tasks = [self.root, self.torso, *self.feet, self.posture, *(task for pair in self.ends for task in pair)]
        for _ in range(limit):
            for limb, lengths, pair in zip(self.limbs, self.lengths, self.ends):
                place = self._place(limb.bodies[0])  # moves with the joints before it, hence anew in every step
                for task, length, point in zip(pair, lengths, limb.points):
                    place = place + length * directions[limb.side, point]
                    task.set_target(mink.SE3.from_translation(place))
            velocity = mink.solve_ik(self.configuration, tasks, 1.0, "daqp", damping=1e-6, limits=self.limits)
            self.configuration.integrate_inplace(velocity, 1.0)
            if np.abs(velocity).max() < SETTLED:
                break
        return self.configuration.q.copy()

    def _place(self, body: str) -> Float[np.ndarray, " 3"]:
        return self.configuration.data.body(body).xpos.copy()


def _frames(
    hip: Float[np.ndarray, "frame 2 3"], shoulder: Float[np.ndarray, "frame 2 3"]
) -> tuple[Float[np.ndarray, "frame 3"], Float[np.ndarray, "frame 3 3"], Float[np.ndarray, "frame 3 3"]]:
    """Middle of the hips, and rotations of pelvis and torso, both upright along the trunk."""
    middle = hip.mean(axis=1)
    trunk = shoulder.mean(axis=1) - middle
    return middle, _upright(trunk, hip[:, 0] - hip[:, 1]), _upright(trunk, shoulder[:, 0] - shoulder[:, 1])


def _upright(up: Float[np.ndarray, "frame 3"], left: Float[np.ndarray, "frame 3"]) -> Float[np.ndarray, "frame 3 3"]:
    """Rotations whose z axis is ``up`` and whose y axis is as near to ``left`` as that allows."""
    z = _unit(up)
    y = _across(left, z)
    return np.stack((np.cross(y, z), y, z), axis=-1)


def _foot_frames(points: HumanPoints, pelvis: Float[np.ndarray, "frame 3 3"]) -> Float[np.ndarray, "frame 2 3 3"]:
    """Rotations of the feet: x along the person's, level while the toes are low; level and ahead where there are none.

    Frames, not two angles: the heading of a foot that points down turns by half a circle.
    """
    left = np.repeat(pelvis[:, None, :, 1], 2, axis=1)
    if points.toe is None:
        ahead = pelvis[:, None, :, 0] * np.array([1.0, 1.0, 0.0])
        return _along(np.repeat(_unit(ahead), 2, axis=1), left)
    frames = _along(_unit(points.toe - points.ankle), left)
    for side in (0, 1):
        height = points.toe[:, side, 2]
        low = height <= np.quantile(height, _STANCE_SHARE)
        pitch = np.median(np.arcsin(np.clip(-frames[low, side, 2, 0], -1.0, 1.0)))
        frames[:, side] = frames[:, side] @ quaternion.to_matrix(quaternion.from_rotvec(np.array([0.0, -pitch, 0.0])))
    return frames


def _along(x: Float[np.ndarray, "frame 2 3"], left: Float[np.ndarray, "frame 2 3"]) -> Float[np.ndarray, "frame 2 3 3"]:
    """Rotations whose x axis is given and whose y axis is as near to ``left`` as that allows."""
    y = _across(left, x)
    return np.stack((x, y, np.cross(x, y)), axis=-1)


def _across(
    vectors: Float[np.ndarray, "*shape 3"], axis: Float[np.ndarray, "*shape 3"]
) -> Float[np.ndarray, "*shape 3"]:
    """Unit vectors along the parts of ``vectors`` that are perpendicular to unit vectors."""
    return _unit(vectors - (vectors * axis).sum(axis=-1, keepdims=True) * axis)


def _unit(vectors: Float[np.ndarray, "*shape 3"]) -> Float[np.ndarray, "*shape 3"]:
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    if not (length > 0.0).all():
        raise UserError("the recording has a frame in which hips, shoulders or a limb lie on one point or line")
    return vectors / length


def _targets(limb: _Limb) -> Sequence[tuple[str, str]]:
    """Frames of the ends of both links; the arm's last one is a site, since the hand is no body."""
    return (limb.bodies[1], "body"), (limb.bodies[2], "site" if limb.points[2] == "hand" else "body")


def _lengths(configuration: mink.Configuration, limb: _Limb) -> tuple[float, float]:
    data = configuration.data
    first, second = (data.body(name).xpos for name in limb.bodies[:2])
    kind, name = _targets(limb)[1][1], limb.bodies[2]
    third = data.site(name).xpos if kind == "site" else data.body(name).xpos
    return float(np.linalg.norm(second - first)), float(np.linalg.norm(third - second))


def _transform(rotation: Float[np.ndarray, "3 3"], position: Float[np.ndarray, " 3"]) -> mink.SE3:
    return mink.SE3.from_rotation_and_translation(mink.SO3.from_matrix(rotation), position)
