"""Checkpoints of a low-level run: everything that determines its future, written whole or not at all."""

from __future__ import annotations

import io
import logging
import time
from collections import deque
from pathlib import Path

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from torch.utils.tensorboard import SummaryWriter

from motionlex.controllers.ppo import TrackingPPO
from motionlex.data.errors import UserError
from motionlex.data.storage import write_bytes, write_json
from motionlex.motion_vae.checkpoint import META_FILE, STATE_FILE, load_state
from motionlex.motion_vae.registry import PlainValue

logger = logging.getLogger(__name__)


def training_state(model: TrackingPPO) -> dict[str, object]:
    """Collect parameters, optimiser, rates, generators, simulator states and episode bookkeeping."""
    env = model.env
    return {
        "policy": model.policy.network.state_dict(),
        "optimizer": model.policy.optimizer.state_dict(),
        "actor_rate": model.actor_rate,
        "steps": model.num_timesteps,
        "updates": model._n_updates,
        "torch_generator": model.generator.get_state(),
        "numpy_generator": env.generator.bit_generator.state,
        "env": {name: torch.from_numpy(np.array(value)) for name, value in env.snapshot().items()},
        "episode_starts": torch.from_numpy(np.array(model._last_episode_starts)),
    }


def save_training_state(folder: Path, model: TrackingPPO) -> None:
    """Write the training state atomically."""
    buffer = io.BytesIO()
    torch.save(training_state(model), buffer)
    write_bytes(folder / STATE_FILE, buffer.getvalue())


def load_training_state(folder: Path, model: TrackingPPO) -> None:
    """Put a model where a checkpoint left it; the next rollout then gives the same numbers as without the break.

    Raises:
        UserError: If the state is missing, damaged or of other sizes.
    """
    state = load_state(folder)
    try:
        model.policy.network.load_state_dict(state["policy"])
        model.policy.optimizer.load_state_dict(state["optimizer"])
        model.actor_rate = float(state["actor_rate"])
        model.num_timesteps = int(state["steps"])
        model._n_updates = int(state["updates"])
        model.generator.set_state(state["torch_generator"])
        model.env.generator.bit_generator.state = state["numpy_generator"]
        model.env.restore({name: value.numpy() for name, value in state["env"].items()})
        model._last_episode_starts = state["episode_starts"].numpy()
    except (KeyError, RuntimeError, ValueError) as error:
        raise UserError(f"{folder / STATE_FILE} does not fit this run: {error}") from error
    model._last_obs = model.env.observe()


class RunCallback(BaseCallback):
    """Progress, TensorBoard (units in the keys) and checkpoints at rollout boundaries."""

    def __init__(self, folder: Path, meta: dict[str, PlainValue], *, total: int, checkpoint_s: float) -> None:
        """Prepare.

        Args:
            folder: The run folder.
            meta: Provenance, written again with every checkpoint.
            total: Control steps to reach.
            checkpoint_s: Time between checkpoints [s].
        """
        super().__init__()
        self.folder, self.meta, self.total, self.checkpoint_s = folder, meta, total, checkpoint_s
        self.metrics: dict[str, float] = {}
        self._lengths: deque[float] = deque(maxlen=1000)
        self._returns: deque[float] = deque(maxlen=1000)
        self._lost: deque[bool] = deque(maxlen=1000)

    def _on_training_start(self) -> None:
        self._writer = SummaryWriter(str(self.folder / "tensorboard"))
        self._begin = self._shown = self._saved = time.perf_counter()
        self._first = self.model.num_timesteps

    def _on_step(self) -> bool:
        for index in np.flatnonzero(self.locals["dones"]):
            info = self.locals["infos"][index]
            self._lengths.append(info["episode"]["l"] / self.model.env.task.config.hz)
            self._returns.append(info["episode"]["r"])
            self._lost.append(not info["TimeLimit.truncated"])
        return True

    def _on_rollout_start(self) -> None:
        now = time.perf_counter()
        if self.model.num_timesteps > self._first:
            self._log(now)
        if now - self._saved > self.checkpoint_s:
            self.save()
            self._saved = now

    def _on_training_end(self) -> None:
        self._log(time.perf_counter(), show=True)
        self.save()
        self._writer.close()

    def save(self) -> None:
        """Write weights, training state and meta.json."""
        model = self.model
        save_training_state(self.folder, model)
        model.policy.network.save(self.folder)
        spent = time.perf_counter() - self._begin
        progress = {"steps": model.num_timesteps, "seconds_this_session": spent, "diverged_worlds": model.env.diverged}
        write_json(self.folder / META_FILE, {**self.meta, **progress, "metrics": dict(self.metrics)})

    def _log(self, now: float, *, show: bool = False) -> None:
        steps = self.model.num_timesteps
        rate = (steps - self._first) / max(now - self._begin, 1e-9)
        failure = self.model.env.sampler.failure
        self.metrics = {
            "mean_episode_s": float(np.mean(self._lengths)) if self._lengths else 0.0,
            "mean_return": float(np.mean(self._returns)) if self._returns else 0.0,
            "lost_share": float(np.mean(self._lost)) if self._lost else 0.0,
            "mean_bin_failure": float(failure.mean()),
            "diverged_worlds": float(self.model.env.diverged),
            "steps_per_s": rate,
            **self.model.statistics,
        }
        for name, value in self.metrics.items():
            self._writer.add_scalar(f"train/{name}", value, steps)
        if show or now - self._shown > 10.0:
            self._shown = now
            left = (self.total - steps) / max(rate, 1e-9)
            logger.info(
                "step %.3fM of %.3fM, %.0f steps/s, %.0f s left: episode %.2f s, lost %.0f %%, return %.3f, "
                "kl %.4f, rate %.1e, std %.2f, failure %.2f",
                steps / 1e6,
                self.total / 1e6,
                rate,
                max(left, 0.0),
                self.metrics["mean_episode_s"],
                100 * self.metrics["lost_share"],
                self.metrics["mean_return"],
                self.metrics.get("kl_nats", 0.0),
                self.metrics.get("actor_rate", 0.0),
                self.metrics.get("action_std", 0.0),
                self.metrics["mean_bin_failure"],
            )
