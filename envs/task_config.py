"""What defines the tracking task besides the motions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from motionlex.data.errors import UserError, check_number
from motionlex.envs.randomisation import Randomisation, upgraded_task
from motionlex.envs.rewards import DeepMimicWeights
from motionlex.envs.terminations import TerminationLimits

Goal = Literal["latent", "decoded", "reference"]
Reward = Literal["deepmimic", "beyond_mimic", "loco_mujoco"]
Integrator = Literal["Euler", "RK4", "implicit", "implicitfast"]
Solver = Literal["PGS", "CG", "Newton"]
Cone = Literal["pyramidal", "elliptic"]
INTEGRATORS, SOLVERS, CONES = get_args(Integrator), get_args(Solver), get_args(Cone)


@dataclass(frozen=True, kw_only=True)
class StartNoise:
    """Standard deviations added to the reference state at the start of an episode."""

    joint: float = 0.05
    """Hinge angles [rad]."""
    joint_velocity: float = 0.2
    """Hinge velocities [rad/s]."""
    position: float = 0.02
    """Horizontal root position [m]."""
    orientation: float = 0.05
    """Root orientation, rotation vector [rad]."""
    velocity: float = 0.1
    """Root linear [m/s] and angular [rad/s] velocity."""


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """Everything that defines the task besides the motions."""

    hz: float = 50.0
    """Control rate [1/s]."""
    timestep: float = 0.005
    """Physics step [s]."""
    iterations: int = 4
    """Solver iterations per physics step."""
    ls_iterations: int = 8
    """Line-search iterations per solver iteration."""
    integrator: Integrator = "implicitfast"
    """How MuJoCo integrates in time."""
    solver: Solver = "Newton"
    """Which of MuJoCo's constraint solvers."""
    cone: Cone = "pyramidal"
    """Shape of the friction cones; a robot's model from another file keeps that file's, as all of its contacts."""
    tolerance: float = 1e-8
    """Improvement of the (scaled) cost below which the solver stops early; MuJoCo Warp takes 1e-6 at least."""
    goal: Goal = "reference"
    """What the policy is told: data-set frames, decoded frames, or codes."""
    control: Literal["pd", "torque"] = "pd"
    """Motors: position servos or torques."""
    reward: Reward = "deepmimic"
    """Which reward."""
    ahead: tuple[int, ...] = (1, 8)
    """Command frames shown, in control steps from now."""
    action_limit: float = 4.0
    """Bound of every action under pd (1 under torque)."""
    residual_scale: float = 0.3
    """PD target = command + this [rad] times the action (goals reference and decoded)."""
    absolute_scale: float = 0.75
    """PD target = default pose + this [rad] times the action (goal latent): 3 rad either way reach every pose."""
    episode_s: float = 10.0
    """Longest episode [s]."""
    limits: TerminationLimits = field(default_factory=TerminationLimits)
    """Early termination."""
    noise: StartNoise = field(default_factory=StartNoise)
    """Perturbation of start states."""
    weights: DeepMimicWeights = field(default_factory=DeepMimicWeights)
    """Weights of the deepmimic reward; its ``scale`` multiplies every reward."""
    randomisation: Randomisation = field(default_factory=Randomisation)
    """What differs from episode to episode: robot, floor, delay, sensors, kicks; nothing by default."""
    hold_s: float = 2.0
    """Goal latent: time in which the reference, as the reward has it, follows the robot's place and heading [s]: drift
    costs, though codes say nothing about the place in the world; 0 keeps the reference under the robot."""
    privileged_critic: bool = True
    """With goal latent, append the reference observation for the critic alone."""

    def __post_init__(self) -> None:
        for name in ("hz", "timestep", "iterations", "ls_iterations", "action_limit", "episode_s"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name} must be positive, got {getattr(self, name)}")
        for name, choices in (("integrator", INTEGRATORS), ("solver", SOLVERS), ("cone", CONES)):
            if getattr(self, name) not in choices:
                raise UserError(f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}")
        for name in ("hold_s", "tolerance"):
            check_number(name, getattr(self, name), at_least=0)

    @staticmethod
    def upgraded(values: Mapping[str, object]) -> dict[str, object]:
        """Return plain values of an older version as this one has them; ``from_plain`` asks for it."""
        return upgraded_task(values)
