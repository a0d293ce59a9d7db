"""Can a robot do what a clip shows? Checks that need nothing but the clip: kinematics, support and motor torques."""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np
from jaxtyping import Bool, Float
from scipy.optimize import nnls

from motionlex.data.clip import MotionClip
from motionlex.data.procedural.dynamics import InverseDynamics, derivatives, root_wrench, zmp_of
from motionlex.data.robots import Robot

CONTACT_HEIGHT = 0.008
"""A contact sphere counts as standing when its lowest point is below this height [m]; soles roll by a few degrees."""
FRICTION = 0.8
"""Friction coefficient assumed for the contact forces."""
_DIRECTIONS = np.stack([(np.cos(a), np.sin(a)) for a in np.arange(144) * (2 * np.pi / 144)])


@dataclass(frozen=True, kw_only=True)
class Feasibility:
    """What was found in one clip; every figure is the worst over its frames unless it says otherwise."""

    name: str
    """Name of the clip."""
    range_excess_rad: float
    """How far a hinge leaves its range [rad]; negative: the smallest distance kept from the limits."""
    penetration_m: float
    """Depth of the lowest contact sphere below the floor [m]; negative when above."""
    slide_m_s: float
    """Horizontal speed of a foot that stands [m/s], at the middle of its sole."""
    root_acceleration_m_s2: float
    """Linear acceleration of the root [m/s^2]."""
    zmp_margin_m: float
    """Distance of the zero-moment point inside the support polygon [m], 1st percentile; negative is outside."""
    zmp_outside_share: float
    """Share of the standing frames in which it is outside by more than 5 mm."""
    torque_ratio: float
    """Needed motor torque over its limit, 99.9th percentile over the frames of the worst hinge."""
    torque_joint: str
    """That hinge."""
    wrench_residual: float
    """What feasible contact forces cannot provide, relative to the weight, 99th percentile."""
    flight_force: float
    """Outer force needed while no foot stands, relative to the weight, median over those frames (0 when ballistic)."""
    flight_moment_n_m: float
    """Outer moment about the centre of mass needed while no foot stands [N m], median over those frames."""
    flight_share: float
    """Share of frames in flight."""


@dataclass(frozen=True, kw_only=True)
class _Soles:
    """Contact spheres over time."""

    point: Float[np.ndarray, "frame 8 3"]
    """Lowest points [m]; left foot first."""
    touching: Bool[np.ndarray, "frame 8"]
    """Which of them are on the floor."""


def check_clip(clip: MotionClip, dynamics: InverseDynamics, *, stride: int = 5) -> Feasibility:
    """Check one clip.

    Args:
        clip: The motion, at 50 Hz or more for meaningful accelerations.
        dynamics: Inverse dynamics of its robot.
        stride: Frames between those for which contact forces and torques are computed.
    """
    robot, qpos, dt = dynamics.robot, np.asarray(clip.qpos), 1.0 / clip.hz
    soles = _soles(qpos, dynamics)
    _, acceleration = derivatives(qpos, dt)
    forces = dynamics.forces(qpos, dt)
    weight = float(dynamics.model.body_mass.sum()) * 9.81
    margin = support_margin(zmp_of(qpos, forces), soles.point[..., :2], soles.touching)
    flight = ~soles.touching.any(axis=1)
    loaded = ~flight & (forces[:, 2] > 0.1 * weight)
    loaded[[0, -1]] = False
    force, moment = root_wrench(qpos, forces)
    moment = moment - np.cross(dynamics.centre_of_mass(qpos), force)
    torque, residual = _contact_torques(qpos, forces, soles, dynamics, stride)
    ratio = np.quantile(np.abs(torque) / robot.torque_limit, 0.999, axis=0)
    in_flight = bool(flight.any())
    return Feasibility(
        name=clip.name,
        range_excess_rad=float(np.maximum(robot.lower - qpos[:, 7:], qpos[:, 7:] - robot.upper).max()),
        penetration_m=float(-soles.point[..., 2].min()),
        slide_m_s=_slide(soles, dt),
        root_acceleration_m_s2=float(np.linalg.norm(acceleration[:, :3], axis=1).max()),
        zmp_margin_m=float(np.quantile(margin[loaded], 0.01)) if loaded.any() else float("nan"),
        zmp_outside_share=float((margin[loaded] < -0.005).mean()) if loaded.any() else 0.0,
        torque_ratio=float(ratio.max()),
        torque_joint=robot.joint_names[int(ratio.argmax())],
        wrench_residual=float(np.quantile(residual, 0.99)) / weight,
        flight_force=float(np.median(np.linalg.norm(force[flight], axis=1))) / weight if in_flight else 0.0,
        flight_moment_n_m=float(np.median(np.linalg.norm(moment[flight], axis=1))) if in_flight else 0.0,
        flight_share=float(flight.mean()),
    )


def support_margin(
    zmp: Float[np.ndarray, "frame 2"],
    points: Float[np.ndarray, "frame point 2"],
    touching: Bool[np.ndarray, "frame point"],
) -> Float[np.ndarray, " frame"]:
    r"""Return the signed distance of the zero-moment point to the border of the support polygon [m].

    For a convex hull it is :math:`\min_{|n|=1} \max_i n \cdot p_i - n \cdot z`, here over 144 directions.
    Positive inside; minus infinity where nothing touches.
    """
    height = np.where(touching[..., None], points @ _DIRECTIONS.T, -np.inf).max(axis=1)
    return (height - zmp @ _DIRECTIONS.T).min(axis=1)


def _soles(qpos: Float[np.ndarray, "frame 26"], dynamics: InverseDynamics) -> _Soles:
    model, data = dynamics.model, dynamics.data
    ids = np.array([model.geom(name).id for foot in dynamics.robot.foot_geoms for name in foot])
    point = np.empty((len(qpos), len(ids), 3))
    for frame in range(len(qpos)):
        data.qpos[:] = qpos[frame]
        mujoco.mj_kinematics(model, data)
        point[frame] = data.geom_xpos[ids]
    point[..., 2] -= model.geom_size[ids, 0]
    return _Soles(point=point, touching=point[..., 2] < CONTACT_HEIGHT)


def _slide(soles: _Soles, dt: float) -> float:
    """Fastest foot among those that stand with all their spheres in both neighbouring frames."""
    worst = 0.0
    half = soles.point.shape[1] // 2
    for foot in (slice(0, half), slice(half, None)):
        standing = soles.touching[:, foot].all(axis=1) & (soles.point[:, foot, 2].min(axis=1) < 0.5 * CONTACT_HEIGHT)
        still = standing[:-1] & standing[1:]
        speed = np.linalg.norm(np.diff(soles.point[:, foot, :2].mean(axis=1), axis=0), axis=1) / dt
        if still.any():
            worst = max(worst, float(speed[still].max()))
    return worst


def _contact_torques(
    qpos: Float[np.ndarray, "frame 26"],
    forces: Float[np.ndarray, "frame 25"],
    soles: _Soles,
    dynamics: InverseDynamics,
    stride: int,
) -> tuple[Float[np.ndarray, "sample 19"], Float[np.ndarray, " sample"]]:
    """Split the outer wrench over the touching spheres; return motor torques [N m] and what is left over [N].

    Non-negative least squares over the edges of the friction pyramids: the wrench must match, and torques relative
    to the motor limits are kept small where the split is free.
    """
    model, data = dynamics.model, dynamics.data
    bodies = [model.body(name).id for name in dynamics.robot.foot_bodies for _ in range(soles.point.shape[1] // 2)]
    edges = np.array([(FRICTION * c, FRICTION * s, 1.0) for c, s in ((1, 0), (0, 1), (-1, 0), (0, -1))])
    limit = dynamics.robot.torque_limit
    scale = np.concatenate((np.full(3, 1.0), np.full(3, 3.0), np.full(len(limit), 1.0) / limit))
    torques, left = [], []
    jacobian = np.zeros((3, model.nv))
    for frame in range(1, len(qpos) - 1, stride):
        data.qpos[:] = qpos[frame]
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        columns = []
        for index in np.flatnonzero(soles.touching[frame]):
            mujoco.mj_jac(model, data, jacobian, None, soles.point[frame, index], bodies[index])
            columns.append(jacobian.T @ edges.T)
        torque = forces[frame]
        if columns:
            basis = np.concatenate(columns, axis=1)
            solution, _ = nnls(basis * scale[:, None], torque * scale, maxiter=2000)
            torque = torque - basis @ solution
        torques.append(torque[6:])
        left.append(float(np.linalg.norm(torque[:3])) if columns else 0.0)
    return np.array(torques), np.array(left)


def summarise(reports: tuple[Feasibility, ...], robot: Robot) -> str:
    """Return a table of reports, one line per clip."""
    head = f"{robot.name:22s} range_rad  sink_mm slide_mm/s acc_m/s2 zmp_mm outside torque joint"
    rows = [
        f"{r.name:22s} {r.range_excess_rad:9.3f} {1e3 * r.penetration_m:8.2f} {1e3 * r.slide_m_s:10.1f}"
        f" {r.root_acceleration_m_s2:8.1f} {1e3 * r.zmp_margin_m:6.1f} {r.zmp_outside_share:7.3f} {r.torque_ratio:6.2f}"
        f" {r.torque_joint} residual {r.wrench_residual:.3f} flight {r.flight_share:.2f}"
        f" force {r.flight_force:.3f} moment {r.flight_moment_n_m:.1f}"
        for r in reports
    ]
    return "\n".join((head, *rows))
