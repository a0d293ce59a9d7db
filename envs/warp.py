"""Many tracking robots on MuJoCo Warp behind rsl_rl's VecEnv interface; tensors never leave the device.

The task (control, observation, reward, end of episodes) is the very one of the CPU's environments. A step has the same
operations whatever happens in it: finished worlds restart through masks, and nothing asks the device for a number, so
that the host runs ahead of the device.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from rsl_rl.env import VecEnv
from tensordict import TensorDict
from torch import Tensor

from motionlex.envs.checks import check_frames
from motionlex.envs.episodes import Episodes
from motionlex.envs.start_sampler import StartSampler
from motionlex.envs.task import TrackingTask
from motionlex.envs.warp_config import WarpBuffers
from motionlex.envs.warp_disturbances import WarpDisturbances, renew
from motionlex.envs.warp_physics import WarpPhysics

LEARN_EVERY = 32
"""Control steps between two updates of the start sampler; only these ask the device for something."""


@dataclass(kw_only=True)
class EpisodeTotals:
    """Sums over the episodes that ended since the last report."""

    episodes: float
    """How many ended."""
    steps: float
    """Their control steps."""
    returns: float
    """Their rewards."""
    lost: float
    """How many were terminated."""
    diverged: float
    """How many simulations blew up."""


class WarpTracking(VecEnv):
    """The task of :class:`motionlex.envs.batched.BatchedTracking` on a GPU.

    Observations come in the groups ``policy`` and, where the critic sees more, ``critic`` (what the policy sees, then
    the privileged part).

    Departures from the CPU's batch: float32; the start sampler learns from all finished episodes every 32 control steps
    instead of at once; rsl_rl bootstraps at the end of time from the value of the last state instead of the next.
    """

    def __init__(
        self,
        task: TrackingTask,
        *,
        worlds: int,
        generator: torch.Generator,
        buffers: WarpBuffers | None = None,
    ) -> None:
        """Reserve the worlds and start every robot from a sampled frame.

        Args:
            task: What to do, with torch arrays on the device of the simulation (``MotionLibrary.to``).
            worlds: Number of robots.
            generator: Source of everything that is drawn, on the same device.
            buffers: Room for contacts and constraints; None takes the defaults.
        """
        if not isinstance(task.library.qpos, Tensor):
            raise TypeError("the motions of a Warp environment must be torch tensors: MotionLibrary.to(device)")
        self.task, self.generator = task, generator
        device = task.library.qpos.device
        self.physics = WarpPhysics(task.robot, task.config, worlds=worlds, device=device, buffers=buffers)
        self.disturbances = WarpDisturbances(task, self.physics, generator)
        self.device: torch.device = self.physics.device
        self.num_envs, self.num_actions = worlds, task.actions
        self.max_episode_length, self.cfg = task.episode_steps, task.config
        self.sampler = StartSampler(task.library)
        self._failure = torch.as_tensor(self.sampler.failure)
        self.episodes, self._fresh = self._bookkeeping(), self._bookkeeping()
        self.episode_length_buf: Int[Tensor, " env"] = torch.zeros_like(self.episodes.frame)
        self.returns: Float[Tensor, " env"] = torch.zeros_like(self.physics.qpos[:, 0])
        self._rows = torch.arange(worlds, device=self.device)
        self.diverged = 0
        """Simulations that blew up so far, as of the last report."""
        self._totals = torch.zeros(5, dtype=torch.float64, device=self.device)
        self._ended = torch.zeros((3, LEARN_EVERY, worlds), dtype=torch.int64, device=self.device)
        self._ended_now = 0
        self.reset()

    @property
    def qpos(self) -> Float[Tensor, "env coordinate"]:
        """Positions of all robots."""
        return self.physics.qpos

    @property
    def qvel(self) -> Float[Tensor, "env velocity"]:
        """Velocities of all robots."""
        return self.physics.qvel

    def reset(self) -> TensorDict:
        """Start every robot from a sampled, perturbed frame."""
        self._restart(torch.ones(self.num_envs, dtype=torch.bool, device=self.device))
        return self.get_observations()

    def reset_to(self, frames: Int[Tensor, " env"]) -> TensorDict:
        """Start every robot exactly at the given library frames, without noise; robots may differ all the same."""
        check_frames(self.task.library, frames.cpu().numpy())
        qpos, qvel = self.task.start(self.episodes, self._rows, frames)
        self.qpos.copy_(torch.as_tensor(qpos))
        self.qvel.copy_(torch.as_tensor(qvel))
        self._begin(torch.ones_like(frames, dtype=torch.bool))
        return self.get_observations()

    def get_observations(self) -> TensorDict:
        """Return the present observations by group; asking twice gives the same numbers."""
        task = self.task
        seen = self.disturbances.measure(torch.as_tensor(task.observe(self.qpos, self.qvel, self.episodes)))
        groups = {"policy": seen[:, : task.policy_size]}
        if task.observation_size > task.policy_size:
            groups["critic"] = seen
        return TensorDict(groups, batch_size=[self.num_envs], device=self.device)

    def step(
        self, actions: Float[Tensor, "env action"]
    ) -> tuple[TensorDict, Float[Tensor, " env"], Bool[Tensor, " env"], dict[str, Tensor]]:
        """Advance all robots by one control step; finished episodes restart at once.

        Args:
            actions: Not necessarily bounded.

        Returns:
            Observations after the restarts, rewards, ends, and ``time_outs``: which ends were of time, not of failure.
        """
        task, episodes, limit = self.task, self.episodes, self.task.action_limit
        action = actions.clamp(-limit, limit)
        self.disturbances.command(torch.as_tensor(task.control(episodes, action)))
        self.physics.simulate()
        last_action, drawn = episodes.last_action, self.disturbances.parameters
        result = task.advance(episodes, self.qpos, self.qvel, action, self.physics.ctrl, drawn)
        episodes.last_action = torch.as_tensor(last_action).copy_(action)  # one tensor for good, as all of the state
        reward, terminated, truncated, diverged = (
            torch.as_tensor(x) for x in (result.reward, result.terminated, result.truncated, result.diverged)
        )
        done = terminated | truncated
        self.episode_length_buf += 1
        self.returns += reward
        ended = (done, self.episode_length_buf * done, self.returns * done, terminated, diverged)
        self._totals += torch.stack([x.sum(dtype=torch.float64) for x in ended])
        self._note_ends(done, terminated)
        self.disturbances.strike(self.qvel)
        self._restart(done)
        return self.get_observations(), reward, done, {"time_outs": truncated}

    def report(self) -> EpisodeTotals:
        """Return the sums since the last report; the host waits for them."""
        totals = EpisodeTotals(**dict(zip(("episodes", "steps", "returns", "lost", "diverged"), self._totals.tolist())))
        self._totals.zero_()
        self.diverged += int(totals.diverged)
        return totals

    def snapshot(self) -> dict[str, Tensor]:
        """Return copies of everything that determines the future: for exact resume."""
        copies = {name: value.clone() for name, value in self._state().items()}
        counts = torch.tensor([self._ended_now, self.diverged])
        return copies | {"generator": self.generator.get_state(), "counts": counts}

    def restore(self, arrays: dict[str, Tensor]) -> None:
        """Take back what :meth:`snapshot` gave, on whatever device it lies."""
        for name, value in self._state().items():
            value.copy_(arrays[name])
        self.disturbances.write()
        self.generator.set_state(arrays["generator"].cpu())
        self._ended_now, self.diverged = arrays["counts"].tolist()

    def _state(self) -> dict[str, Tensor]:
        episodes = self.episodes
        arrays = {
            "qpos": self.qpos,
            "qvel": self.qvel,
            "frame": episodes.frame,
            "start": episodes.start,
            "variant": episodes.variant,
            "last_action": episodes.last_action,
            "place": episodes.place,
            "steps": self.episode_length_buf,
            "returns": self.returns,
            "failure": self._failure,
            "totals": self._totals,
            "ended": self._ended,
        }
        return {name: torch.as_tensor(value) for name, value in arrays.items()} | self.disturbances.state()

    def _bookkeeping(self) -> Episodes:
        frame = torch.zeros(len(self.physics.qpos), dtype=torch.int64, device=self.device)
        still = torch.zeros((len(frame), self.task.actions), dtype=self.physics.qpos.dtype, device=self.device)
        place = still.new_zeros((len(frame), 3))
        return Episodes(frame=frame, start=frame.clone(), variant=frame.clone(), last_action=still, place=place)

    def _note_ends(self, done: Bool[Tensor, " env"], terminated: Bool[Tensor, " env"]) -> None:
        """Collect finished episodes and hand them to the sampler now and then: that needs their number on the host."""
        start, end, kind = self._ended[:, self._ended_now]
        start.copy_(self.episodes.start)
        end.copy_(self.episodes.frame)
        kind.copy_(done.long() + terminated.long())
        self._ended_now = (self._ended_now + 1) % LEARN_EVERY
        if self._ended_now:
            return
        starts, ends, kinds = self._ended.flatten(1)
        rows = kinds.nonzero()[:, 0]
        self.sampler.update(starts[rows], ends[rows], kinds[rows] == 2)
        self.sampler.failure = self._failure.copy_(torch.as_tensor(self.sampler.failure))

    def _restart(self, rows: Bool[Tensor, " env"]) -> None:
        """Begin new episodes in the worlds of a mask; starts are drawn for all worlds, which costs next to nothing."""
        task, worlds, device = self.task, self.num_envs, self.device
        draw = torch.rand((2, worlds), generator=self.generator, device=device, dtype=torch.float64)
        variants = torch.randint(task.command.variants, (worlds,), generator=self.generator, device=device)
        qpos, qvel = task.start(self._fresh, self._rows, self.sampler.sample(draw), variants)
        noise = torch.randn((worlds, task.start_draws), generator=self.generator, device=device)
        qpos, qvel = task.perturb(qpos, qvel, noise)
        old, new = self.episodes, self._fresh
        for mine, fresh in (
            *((self.qpos, qpos), (self.qvel, qvel), (old.last_action, new.last_action), (old.place, new.place)),
            *((old.frame, new.frame), (old.start, new.start), (old.variant, new.variant)),
        ):
            renew(torch.as_tensor(mine), torch.as_tensor(fresh), rows)
        self._begin(rows)

    def _begin(self, rows: Bool[Tensor, " env"]) -> None:
        """Reset what is counted in the worlds of a mask, and draw what their episodes meet."""
        self.disturbances.begin(rows, self.qpos)
        self.disturbances.sense()
        self.episode_length_buf *= ~rows
        self.returns *= ~rows
