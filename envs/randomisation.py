"""What may differ from the nominal robot and sensors: ranges, presets, and the numbers drawn for one episode."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Literal

from jaxtyping import Float, Int

from motionlex.data.arrays import Array, namespace
from motionlex.data.errors import UserError

Range = tuple[float, float]
Preset = Literal["none", "light", "heavy"]
_SCALES = ("friction", "mass", "gain", "strength", "joint_damping", "armature")


@dataclass(frozen=True, kw_only=True)
class SensorNoise:
    """Standard deviations of white noise on what the policy measures; the privileged part stays exact.

    Frames of a motion are shown relative to what is measured, so hinge errors and rotations have the same error.
    """

    joint: float = 0.0
    """Hinge angles [rad]."""
    joint_velocity: float = 0.0
    """Hinge velocities [rad/s]."""
    gravity: float = 0.0
    """Components of the unit gravity vector in the base."""
    angular_velocity: float = 0.0
    """Components of the angular velocity of base or torso [rad/s]."""

    def __post_init__(self) -> None:
        for item in fields(self):
            _check(f"noise of {item.name}", getattr(self, item.name))


@dataclass(frozen=True, kw_only=True)
class Randomisation:
    """Ranges that every episode draws from uniformly; the defaults are the nominal robot, which costs nothing."""

    friction: Range = (1.0, 1.0)
    """Factor on the sliding friction of soles and floor (nominally 1)."""
    mass: Range = (1.0, 1.0)
    """Factor on mass and inertia of each link."""
    com_offset: float = 0.0
    """Largest shift of the torso's centre of mass along each axis [m]."""
    gain: Range = (1.0, 1.0)
    """Factor on position and on velocity gain of each servo (pd only)."""
    strength: Range = (1.0, 1.0)
    """Factor on each motor: its force limit under pd, its torque per command under torque control."""
    joint_damping: Range = (1.0, 1.0)
    """Factor on the passive damping of each hinge."""
    armature: Range = (1.0, 1.0)
    """Factor on the rotor inertia of each hinge."""
    delay: tuple[int, int] = (0, 0)
    """Physics steps between a decision and the moment the motors follow it, both ends included."""
    noise: SensorNoise = field(default_factory=SensorNoise)
    """Errors of the sensors, new at every control step."""
    push_speed: float = 0.0
    """Largest horizontal velocity kick [m/s]; 0 switches kicks off."""
    push_interval_s: float = 3.0
    """Mean time between kicks [s]."""

    def __post_init__(self) -> None:
        for name in (*_SCALES, "delay"):
            low, high = getattr(self, name)
            _check(f"randomisation of {name}", low, high)
            if low > high:
                raise UserError(f"randomisation of {name}: the range must rise, got {low:g} to {high:g}")
        for name in ("mass", "gain", "strength"):
            if not getattr(self, name)[0] > 0.0:
                raise UserError(f"randomisation of {name}: factors must be positive, got {getattr(self, name)[0]:g}")
        _check("com_offset", self.com_offset)
        _check("push_speed", self.push_speed)
        if not self.push_interval_s > 0.0:
            raise UserError(f"push_interval_s must be positive, got {self.push_interval_s}")

    @property
    def physical(self) -> bool:
        """Whether the robot or the floor may differ from the nominal model."""
        return self.com_offset > 0.0 or any(getattr(self, name) != (1.0, 1.0) for name in _SCALES)

    @property
    def delayed(self) -> bool:
        """Whether motors may follow late."""
        return self.delay[1] > 0

    @property
    def noisy(self) -> bool:
        """Whether sensors err."""
        return self.noise != SensorNoise()

    def draws(self, bodies: int, joints: int) -> int:
        """Return how many uniform numbers :meth:`sample` wants per robot."""
        return 1 + bodies + 3 + 5 * joints + 1

    def sample(self, uniform: Float[Array, "env draw"], *, bodies: int, joints: int) -> Parameters:
        """Turn uniform numbers into the parameters of some robots.

        Args:
            uniform: Numbers in [0, 1), ``draws(bodies, joints)`` per robot.
            bodies: Bodies of the model, the world included.
            joints: Hinges with a motor.
        """
        taken = 0

        def take(count: int, low: float, high: float) -> Array:
            nonlocal taken
            part = low + (high - low) * uniform[:, taken : taken + count]
            taken += count
            return part

        xp = namespace(uniform)
        first, last = self.delay  # added last: n times a number below 1 never rounds up to n, n + first may
        return Parameters(
            friction=take(1, *self.friction)[:, 0],
            mass=take(bodies, *self.mass),
            com=take(3, -self.com_offset, self.com_offset),
            stiffness=take(joints, *self.gain),
            damping=take(joints, *self.gain),
            strength=take(joints, *self.strength),
            joint_damping=take(joints, *self.joint_damping),
            armature=take(joints, *self.armature),
            delay=first + xp.astype(take(1, 0.0, float(last + 1 - first))[:, 0], xp.int64),
        )

    @classmethod
    def light(cls) -> Randomisation:
        """Return what two robots of one series may differ by.

        Source: friction as in Rudin et al. 2022 (legged_gym); sensor noise of the size of BeyondMimic's (Liao et al.
        2025: uniform, half widths 0.01 rad, 0.5 rad/s, 0.2 rad/s) and legged_gym's gravity (0.05); a uniform half width
        w is a standard deviation of w / sqrt 3. The factors of 10 % and the delay of up to one physics step are ours.
        """
        return cls(
            friction=(0.5, 1.25),
            mass=(0.9, 1.1),
            com_offset=0.025,
            gain=(0.9, 1.1),
            strength=(0.9, 1.1),
            joint_damping=(0.8, 1.2),
            armature=(0.9, 1.1),
            delay=(0, 1),
            noise=SensorNoise(joint=0.006, joint_velocity=0.29, gravity=0.029, angular_velocity=0.12),
            push_speed=0.3,
        )

    @classmethod
    def heavy(cls) -> Randomisation:
        """Return what is used for transfer to real humanoids.

        Source: masses (0.7 to 1.3), gains (0.75 to 1.25), kicks (1 m/s every 5 s) and the noise of gravity (0.1) and of
        angular velocity (0.5) as in OmniH2O on the H1 (He et al. 2024); friction and centre of mass (5 cm) as in
        BeyondMimic (Liao et al. 2025). Departures: OmniH2O shifts the centre of mass by 10 cm and delays by up to three
        control steps; here the delay is up to four physics steps (20 ms). Strength, joint damping and rotor inertia are
        ours.
        """
        return cls(
            friction=(0.3, 1.6),
            mass=(0.7, 1.3),
            com_offset=0.05,
            gain=(0.75, 1.25),
            strength=(0.8, 1.2),
            joint_damping=(0.5, 1.5),
            armature=(0.8, 1.2),
            delay=(0, 4),
            noise=SensorNoise(joint=0.006, joint_velocity=0.29, gravity=0.058, angular_velocity=0.29),
            push_speed=1.0,
            push_interval_s=5.0,
        )

    @classmethod
    def preset(cls, name: Preset) -> Randomisation:
        """Return a named preset."""
        return {"none": cls, "light": cls.light, "heavy": cls.heavy}[name]()


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """What was drawn for the episodes of some robots."""

    friction: Float[Array, " env"]
    """Factor on sliding friction."""
    mass: Float[Array, "env body"]
    """Factors on mass and inertia; the world's has no effect."""
    com: Float[Array, "env 3"]
    """Shift of the torso's centre of mass [m], in the torso's frame."""
    stiffness: Float[Array, "env joint"]
    """Factors on position gains."""
    damping: Float[Array, "env joint"]
    """Factors on velocity gains."""
    strength: Float[Array, "env joint"]
    """Factors on motor strength."""
    joint_damping: Float[Array, "env joint"]
    """Factors on passive damping."""
    armature: Float[Array, "env joint"]
    """Factors on rotor inertia."""
    delay: Int[Array, " env"]
    """Physics steps until motors follow."""

    def rows(self, rows: slice) -> Parameters:
        """Return views of some rows."""
        return Parameters(**{item.name: getattr(self, item.name)[rows] for item in fields(self)})

    def write(self, rows: Int[Array, " row"], other: Parameters) -> None:
        """Take over the rows of others, in place."""
        for item in fields(self):
            getattr(self, item.name)[rows] = getattr(other, item.name)


def upgraded_task(values: Mapping[str, object]) -> dict[str, object]:
    """Read the plain values of a task as they were saved before this class existed: kicks stood in the task itself."""
    current = dict(values)
    old = {name: current.pop(name) for name in ("push_speed", "push_interval_s") if name in current}
    if old:
        newer = current.get("randomisation")
        current["randomisation"] = {**old, **newer} if isinstance(newer, Mapping) else old
    return current


def _check(name: str, *values: float | int) -> None:
    if bad := [value for value in values if not (math.isfinite(value) and value >= 0.0)]:
        raise UserError(f"{name} must be finite and at least 0, got {bad[0]}")
