"""What a robot is: joints with limits and gains, sites, feet, and its MuJoCo model."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from typing import Literal
from xml.etree import ElementTree

import mujoco
import numpy as np
from jaxtyping import Float

Control = Literal["pd", "torque", "none"]


@dataclass(frozen=True, kw_only=True)
class Joint:
    """One hinge and its motor."""

    name: str
    """Name in the model file."""
    lower: float
    """Lower limit [rad]."""
    upper: float
    """Upper limit [rad]."""
    torque_limit: float
    """Largest motor torque [N m], symmetric."""
    stiffness: float
    """Position gain of the PD controller [N m/rad]."""
    damping: float
    """Velocity gain of the PD controller [N m s/rad]."""
    default: float
    """Angle of the default pose [rad]."""
    velocity_limit: float = float("inf")
    """Fastest the motor turns [rad/s]."""


@dataclass(frozen=True, kw_only=True)
class Robot:
    """A robot: constants, checked against its compiled model by the tests."""

    name: str
    """Name used by commands, e.g. ``h1``."""
    asset: str
    """File name of the MJCF in ``data/robots/assets``."""
    joints: tuple[Joint, ...]
    """Hinges in the order of the model's qpos after the free joint."""
    sites: tuple[str, ...]
    """Key-point sites in body order."""
    anchor_site: str
    """Site of the torso relative to which features are expressed."""
    head_site: str
    """Site at the head, kept out of the features."""
    root_body: str
    """Body that carries the free joint."""
    torso_body: str
    """Body of the upper trunk."""
    foot_bodies: tuple[str, str]
    """Left and right foot body."""
    foot_geoms: tuple[tuple[str, ...], tuple[str, ...]]
    """Contact spheres of the left and of the right foot."""
    standing_height: float
    """Root height [m] in the default pose with both soles on the floor."""
    legs: tuple[tuple[str, str, str], ...] = ()
    """Bodies at hip, knee and ankle of the left and of the right leg; none for a robot that no person's motion fits."""
    arms: tuple[tuple[str, str, str], ...] = ()
    """Bodies at shoulder and elbow, and the site of the hand, of the left and of the right arm; none likewise."""

    @cached_property
    def joint_names(self) -> tuple[str, ...]:
        """Names of the hinges, in order."""
        return tuple(j.name for j in self.joints)

    @cached_property
    def lower(self) -> Float[np.ndarray, " joint"]:
        """Lower limits [rad]."""
        return np.array([j.lower for j in self.joints])

    @cached_property
    def upper(self) -> Float[np.ndarray, " joint"]:
        """Upper limits [rad]."""
        return np.array([j.upper for j in self.joints])

    @cached_property
    def torque_limit(self) -> Float[np.ndarray, " joint"]:
        """Motor limits [N m]."""
        return np.array([j.torque_limit for j in self.joints])

    @cached_property
    def velocity_limit(self) -> Float[np.ndarray, " joint"]:
        """Fastest turn of the motors [rad/s]."""
        return np.array([j.velocity_limit for j in self.joints])

    @cached_property
    def mass(self) -> float:
        """Mass of the whole robot [kg]."""
        return float(self.model(control="none").body_mass.sum())

    @cached_property
    def stiffness(self) -> Float[np.ndarray, " joint"]:
        """PD position gains [N m/rad]."""
        return np.array([j.stiffness for j in self.joints])

    @cached_property
    def damping(self) -> Float[np.ndarray, " joint"]:
        """PD velocity gains [N m s/rad]."""
        return np.array([j.damping for j in self.joints])

    @cached_property
    def default_pose(self) -> Float[np.ndarray, " joint"]:
        """Joint angles of the default pose [rad]."""
        return np.array([j.default for j in self.joints])

    def xml(self) -> str:
        """Return the text of the model file."""
        return files("motionlex.data.robots").joinpath("assets", self.asset).read_text(encoding="utf-8")

    def model(
        self,
        *,
        control: Control = "torque",
        timestep: float = 0.005,
        iterations: int = 4,
        ls_iterations: int = 8,
    ) -> mujoco.MjModel:
        """Compile the model with one kind of motor.

        Args:
            control: ``"pd"``: position servos around ctrl [rad] whose force is clipped to the motor limits;
                ``"torque"``: motors whose ctrl is the torque [N m]; ``"none"``: no motors at all.
            timestep: Physics step [s].
            iterations: Solver iterations per physics step.
            ls_iterations: Line-search iterations per solver iteration.

        Returns:
            A compiled model of its own: that of the text of ``model_xml`` with the same arguments.
        """
        return mujoco.MjModel.from_xml_string(
            self.model_xml(control=control, timestep=timestep, iterations=iterations, ls_iterations=ls_iterations)
        )

    def model_xml(
        self,
        *,
        control: Control = "torque",
        timestep: float = 0.005,
        iterations: int = 4,
        ls_iterations: int = 8,
    ) -> str:
        """Write the complete model, motors and solver settings included, as text; arguments as for ``model``.

        MuJoCo's writer rounds some numbers (gains in the seventh digit). Since ``model`` compiles this very text, a
        recorded motion can be replayed bit for bit from the text alone.
        """
        tree = ElementTree.fromstring(self.xml())
        for actuators in tree.findall("actuator"):
            tree.remove(actuators)
        spec = mujoco.MjSpec.from_string(ElementTree.tostring(tree, encoding="unicode"))
        spec.option.timestep = timestep
        spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
        spec.option.iterations = iterations
        spec.option.ls_iterations = ls_iterations
        # Without warm starts the next state is a function of (qpos, qvel, ctrl) alone: replays, batches and single
        # simulations then agree bit for bit. Measured: no slower. Without auto-reset a diverged state stays visible.
        spec.option.disableflags |= int(mujoco.mjtDisableBit.mjDSBL_WARMSTART | mujoco.mjtDisableBit.mjDSBL_AUTORESET)
        if control != "none":
            for joint in self.joints:
                _add_motor(spec, joint, control)
        spec.compile()
        return str(spec.to_xml())


def _add_motor(spec: mujoco.MjSpec, joint: Joint, control: Control) -> None:
    """Add one actuator: a motor of gear 1, or a servo (an affine bias kp (u - q) - kv dq whose force is clipped)."""
    actuator = spec.add_actuator(name=joint.name, target=joint.name, trntype=mujoco.mjtTrn.mjTRN_JOINT)
    limit = [-joint.torque_limit, joint.torque_limit]
    if control == "torque":
        actuator.ctrllimited = True
        actuator.ctrlrange = limit
        return
    actuator.gaintype = mujoco.mjtGain.mjGAIN_FIXED
    actuator.biastype = mujoco.mjtBias.mjBIAS_AFFINE
    actuator.gainprm[0] = joint.stiffness
    actuator.biasprm[1] = -joint.stiffness
    actuator.biasprm[2] = -joint.damping
    actuator.forcelimited = True
    actuator.forcerange = limit
