"""A latent policy learns from a policy that sees the motion itself, before PPO takes over (DAgger).

The student drives the robot; at every state it reaches, the teacher is asked what it would do. The teacher's motor
target is re-expressed around the student's one fixed pose, so that the student's motion still comes from codes alone.
Under torchrun every rank has robots and a memory of its own; gradients are averaged.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from motionlex.controllers.low_level_policy import LowLevelPolicy
from motionlex.controllers.ppo_config import Precision
from motionlex.data.errors import UserError
from motionlex.envs.batched import BatchedTracking
from motionlex.envs.task import TrackingTask
from motionlex.motion_vae import distributed

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class DistillationConfig:
    """How the student learns."""

    steps: int = 2_000_000
    """Control steps over all robots."""
    horizon: int = 32
    """Control steps per robot between updates."""
    updates: int = 16
    """Gradient steps per horizon."""
    minibatch: int = 2048
    """States per gradient step."""
    memory: int = 400_000
    """States remembered; the oldest go first."""
    rate: float = 1e-3
    """Learning rate at the start; falls to a tenth along a cosine."""
    noise: float = 0.08
    """Standard deviation of the student's actions while driving."""
    teacher_share: float = 0.1
    """Share of the steps at the beginning in which the teacher drives."""


def teacher_actions(
    teacher: LowLevelPolicy, task: TrackingTask, observation: Float[np.ndarray, "env feature"]
) -> Float[np.ndarray, "env action"]:
    """Return the student's actions that reach the teacher's motor targets.

    Args:
        teacher: Policy of goal ``reference`` or ``decoded`` under pd control.
        task: The student's task (goal latent, privileged observation).
        observation: The student's observations; the teacher's follow the student's own part.
    """
    seen = observation[:, task.policy_size :].astype(np.float64)
    hinges = len(task.robot.joints)
    own = 3 * hinges + 10  # proprioception: angles, velocities, gravity, two velocities, height, last action
    last_action = slice(2 * hinges + 10, own)
    reference = seen[:, :hinges] + seen[:, own : own + hinges]
    # The teacher's own last action is unknown here; what the student did last, in the teacher's terms, stands in.
    done = task.robot.default_pose + task.config.absolute_scale * seen[:, last_action]
    bound = teacher.shape.action_limit
    seen[:, last_action] = np.clip((done - reference) / teacher.task.residual_scale, -bound, bound)
    target = reference + teacher.task.residual_scale * teacher.act(seen)
    limit = task.action_limit
    return np.clip((target - task.robot.default_pose) / task.config.absolute_scale, -limit, limit)


class Distillation:
    """A student that learns from a teacher, with everything that determines its future."""

    def __init__(
        self,
        student: LowLevelPolicy,
        teacher: LowLevelPolicy,
        env: BatchedTracking,
        config: DistillationConfig,
        generator: torch.Generator,
        *,
        precision: Precision = "float32",
    ) -> None:
        """Begin with an empty memory.

        Args:
            student: Latent policy, whose actor is trained in place.
            teacher: Policy of goal reference or decoded at the same rate and control.
            env: The student's environment.
            config: How to learn.
            generator: Source of driving noise and of mini-batches.
            precision: Arithmetic of the matrix products in the updates.

        Raises:
            UserError: If teacher or task do not fit.
        """
        check_teacher(teacher, env.task)
        self.student, self.teacher, self.env, self.config = student, teacher, env, config
        self.done = 0
        """Control steps so far, over all robots."""
        self._generator, self._precision, self._device = generator, precision, student.log_std.device
        self._memory = _Memory(config.memory, env.task.policy_size, env.task.actions, self._device)
        learning = [*student.actor.parameters(), *(student.codes.parameters() if student.codes is not None else ())]
        self._optimizer = torch.optim.Adam(learning, lr=config.rate)
        self._lengths, self._loss = [0.0], 0.0

    def run(self, on_progress: Callable[[], None] | None = None) -> dict[str, float]:
        """Learn until ``config.steps`` control steps are done.

        Args:
            on_progress: Called after every horizon; :meth:`state` is then what a resume needs.

        Returns:
            ``distillation_loss`` (mean squared action error) and ``distillation_episode_s``.
        """
        config, first = self.config, self.done
        observation = self.env.observe() if self.done else self.env.reset()
        begin = shown = time.perf_counter()
        while self.done < config.steps:
            observation = self._drive(observation)
            self._learn()
            if on_progress is not None:
                on_progress()
            if time.perf_counter() - shown > 10.0 and distributed.rank() == 0:
                shown = time.perf_counter()
                logger.info(
                    "distilling: step %.3fM of %.3fM, %.0f steps/s, loss %.4f, episode %.2f s",
                    *(self.done / 1e6, config.steps / 1e6, (self.done - first) / (shown - begin), self._loss),
                    float(np.mean(self._lengths)),
                )
        return {"distillation_loss": self._loss, "distillation_episode_s": float(np.mean(self._lengths))}

    def state(self, *, memory: bool = True) -> dict[str, object]:
        """Return what determines the future: of the student, of this process's robots and generators, and the memory.

        Args:
            memory: Whether the memory goes with it; nobody needs it once the imitation is over.
        """
        return {
            "done": self.done,
            "lengths": self._lengths,
            "loss": self._loss,
            "student": self.student.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "torch_generator": self._generator.get_state(),
            "numpy_generator": self.env.generator.bit_generator.state,
            "env": {name: torch.from_numpy(np.array(value)) for name, value in self.env.snapshot().items()},
            "memory": self._memory.state() if memory else None,
        }

    def restore(self, state: Mapping[str, object]) -> None:
        """Take back what :meth:`state` gave.

        Raises:
            KeyError: If something is missing.
            RuntimeError: If the networks have other sizes.
            ValueError: If robots, motions or the memory have.
        """
        self.done, self._lengths, self._loss = state["done"], list(state["lengths"]), state["loss"]
        self.student.load_state_dict(state["student"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._generator.set_state(state["torch_generator"])
        self.env.generator.bit_generator.state = state["numpy_generator"]
        self.env.restore({name: value.numpy() for name, value in state["env"].items()})
        if state["memory"] is not None:
            self._memory.restore(state["memory"])

    def _drive(self, observation: Float[np.ndarray, "env feature"]) -> Float[np.ndarray, "env feature"]:
        """Let the student (at first: the teacher) drive for one horizon and ask the teacher on the way."""
        task, config, student = self.env.task, self.config, self.student
        for _ in range(config.horizon):
            label = teacher_actions(self.teacher, task, observation)
            self._memory.add(observation[:, : task.policy_size], label)
            student.update_normaliser(torch.as_tensor(observation, device=self._device))
            driven = label if self.done < config.teacher_share * config.steps else student.act(observation)
            noise = torch.randn(driven.shape, generator=self._generator, device=self._generator.device).cpu().numpy()
            observation, _, _, infos = self.env.step(driven + config.noise * noise)
            self._lengths += [info["episode"]["l"] / task.config.hz for info in infos if info]
            self.done += self.env.num_envs * distributed.world_size()
        self._lengths = self._lengths[-1000:]
        return observation

    def _learn(self) -> None:
        """Take the gradient steps of one horizon."""
        config = self.config
        fraction, count = min(self.done / config.steps, 1.0), config.minibatch // distributed.world_size()
        self._optimizer.param_groups[0]["lr"] = config.rate * (0.1 + 0.45 * (1.0 + math.cos(math.pi * fraction)))
        losses = []
        for _ in range(config.updates):
            drawn = self._memory.draw(count, self._generator)
            losses.append(_update(self.student, self._optimizer, *drawn, self._precision))
        self._loss = float(np.mean(losses))


def check_teacher(teacher: LowLevelPolicy, task: TrackingTask) -> None:
    """Refuse teachers that cannot be asked.

    Raises:
        UserError: If the student is not a latent pd policy, or the teacher sees codes or has another
            rate, control or view ahead.
    """
    if task.config.goal != "latent" or not task.config.privileged_critic or task.config.control != "pd":
        raise UserError("--teacher is for --goal latent with --control pd")
    wanted = f"{task.config.hz} Hz, pd, frames {task.config.ahead} ahead"
    got = f"{teacher.task.hz} Hz, {teacher.task.control}, frames {teacher.task.ahead} ahead"
    if teacher.task.goal == "latent" or wanted != got:
        raise UserError(
            f"--teacher: wanted goal reference or decoded at {wanted}; got goal {teacher.task.goal} at {got}"
        )


def _update(
    student: LowLevelPolicy,
    optimizer: torch.optim.Optimizer,
    observation: Float[Tensor, "batch feature"],
    label: Float[Tensor, "batch action"],
    precision: Precision,
) -> float:
    with torch.autocast(label.device.type, torch.bfloat16, enabled=precision == "bf16"):
        loss = (student.mean(observation) - label).square().mean()
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    distributed.average_gradients(optimizer.param_groups[0]["params"])
    torch.nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], 1.0)
    optimizer.step()
    return float(loss.detach())


class _Memory:
    """The last states with the teacher's answers."""

    def __init__(self, size: int, features: int, actions: int, device: torch.device) -> None:
        self._device = device
        self._observation = np.zeros((size, features), dtype=np.float32)
        self._label = np.zeros((size, actions), dtype=np.float32)
        self._next = self._filled = 0

    def add(self, observation: Float[np.ndarray, "env feature"], label: Float[np.ndarray, "env action"]) -> None:
        rows = (self._next + np.arange(len(observation))) % len(self._label)
        self._observation[rows], self._label[rows] = observation, label
        self._next = (self._next + len(observation)) % len(self._label)
        self._filled = min(self._filled + len(observation), len(self._label))

    def state(self) -> dict[str, object]:
        """Return what is held; up to ``size`` rows of (features + actions) numbers in single precision."""
        held = self._observation[: self._filled], self._label[: self._filled]
        return {"next": self._next, "observation": torch.from_numpy(held[0]), "label": torch.from_numpy(held[1])}

    def restore(self, state: Mapping[str, object]) -> None:
        self._next, self._filled = state["next"], len(state["label"])
        self._observation[: self._filled] = state["observation"].numpy()
        self._label[: self._filled] = state["label"].numpy()

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        rows = torch.randint(self._filled, (count,), generator=generator, device=generator.device).cpu().numpy()
        drawn = torch.from_numpy(self._observation[rows]), torch.from_numpy(self._label[rows])
        return drawn[0].to(self._device), drawn[1].to(self._device)
