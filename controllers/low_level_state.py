"""Checkpoints of a low-level run: everything that determines its future, written whole or not at all."""

from __future__ import annotations

import io
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from torch.utils.tensorboard import SummaryWriter

from motionlex.controllers.ppo import TrackingPPO
from motionlex.data.errors import UserError
from motionlex.data.storage import finite, write_bytes, write_json
from motionlex.motion_vae import distributed
from motionlex.motion_vae.checkpoint import META_FILE, STATE_FILE, load_state
from motionlex.motion_vae.registry import PlainValue

logger = logging.getLogger(__name__)


def training_state(model: TrackingPPO) -> dict[str, object]:
    """Collect parameters, optimiser, rates, and every rank's generators, simulator states and episode bookkeeping.

    Every rank must call it.
    """
    env = model.env
    own = {
        "torch_generator": model.generator.get_state(),
        "numpy_generator": env.generator.bit_generator.state,
        "env": {name: torch.from_numpy(np.array(value)) for name, value in env.snapshot().items()},
        "episode_starts": torch.from_numpy(np.array(model._last_episode_starts)),
    }
    return {
        "policy": model.policy.network.state_dict(),
        "average": model.average.state(),
        "optimizer": model.policy.optimizer.state_dict(),
        "actor_rate": model.actor_rate,
        "steps": model.steps,
        "updates": model._n_updates,
        "ranks": distributed.gather(own),
    }


def load_training_state(folder: Path, model: TrackingPPO) -> None:
    """Put a model where a checkpoint left it; the next rollout then gives the same numbers as without the break.

    Raises:
        UserError: If the state is missing, damaged or of other sizes, or was written by another number of processes.
    """
    state = load_state(folder)
    try:
        if len(state["ranks"]) != model.ranks:
            raise UserError(
                f"{folder} was trained by {len(state['ranks'])} process(es), not {model.ranks}: "
                f"give --processes {len(state['ranks'])}"
            )
        own = state["ranks"][distributed.rank()]
        model.policy.network.load_state_dict(state["policy"])
        model.average.restore(state["average"])
        model.policy.optimizer.load_state_dict(state["optimizer"])
        model.actor_rate = float(state["actor_rate"])
        model.num_timesteps = int(state["steps"]) // model.ranks
        model._n_updates = int(state["updates"])
        model.generator.set_state(own["torch_generator"])
        model.env.generator.bit_generator.state = own["numpy_generator"]
        model.env.restore({name: value.numpy() for name, value in own["env"].items()})
        model._last_episode_starts = own["episode_starts"].numpy()
    except (KeyError, RuntimeError, ValueError) as error:
        raise UserError(f"{folder / STATE_FILE} does not fit this run: {error}") from error
    model._last_obs = model.env.observe()


@dataclass(frozen=True, kw_only=True)
class Progress:
    """When a run is saved, scored and stopped."""

    total: int
    """Control steps to reach."""
    checkpoint_s: float = 180.0
    """Time between checkpoints [s]."""
    evaluate_every: int = 0
    """Control steps between two scores of the deterministic policy; 0 for none."""
    target_success: float | None = None
    """Success rate at which training stops, once reached three times in a row."""


SCORE_EVERY = 150_000
"""Control steps between two scores where a target is given."""
PLAIN_SCORE_EVERY = 250_000
"""Least number of control steps between two scores where neither a target nor a number is given."""
PLAIN_SCORES = 20
"""Largest number of such scores."""
REPEATS = 3
"""Scores in a row that must reach the target."""


class RunCallback(BaseCallback):
    """Progress, TensorBoard (units in the keys) and checkpoints at rollout boundaries."""

    def __init__(
        self,
        folder: Path,
        meta: dict[str, PlainValue],
        progress: Progress,
        score: Callable[[TrackingPPO], Mapping[str, float]],
        interrupted: threading.Event | None = None,
    ) -> None:
        """Prepare.

        Args:
            folder: The run folder.
            meta: Provenance, written again with every checkpoint; ``scores`` and ``seconds`` go on where they stand.
            progress: When to save, score and stop.
            score: Rolls the deterministic policy out; gives ``success_rate`` and further figures.
            interrupted: Set on any rank, all save and end before the next rollout, with a KeyboardInterrupt.
        """
        super().__init__()
        self._interrupted = threading.Event() if interrupted is None else interrupted
        self.folder, self.meta, self.progress, self._score = folder, meta, progress, score
        self.metrics: dict[str, float] = {}
        self.scores: list[dict[str, float]] = list(meta.get("scores", ()))
        """Every score with its ``steps`` and ``seconds`` (of all sessions, imitation included)."""
        self._earlier = float(meta.get("seconds", meta.get("seconds_this_session", 0.0)))  # older runs have the latter
        self._lengths: deque[float] = deque(maxlen=1000)
        self._returns: deque[float] = deque(maxlen=1000)
        self._lost: deque[bool] = deque(maxlen=1000)
        self._stopped = False

    def _on_training_start(self) -> None:
        self._first_rank = distributed.rank() == 0
        self._writer = SummaryWriter(str(self.folder / "tensorboard")) if self._first_rank else None
        self._begin = self._shown = self._saved = time.perf_counter()
        self._first = self.model.steps
        self._next_score = self._due_score(self.progress.evaluate_every)

    def _on_step(self) -> bool:
        for index in np.flatnonzero(self.locals["dones"]):
            info = self.locals["infos"][index]
            self._lengths.append(info["episode"]["l"] / self.model.env.task.config.hz)
            self._returns.append(info["episode"]["r"])
            self._lost.append(not info["TimeLimit.truncated"])
        return not self._stopped

    def _due_score(self, every: int) -> int | None:
        """Return the steps at which the first score is due; one that a break has come before is due at once."""
        if not every:
            return None
        left = self.meta.get("next_score")  # older runs do not say
        if isinstance(left, int) and left % every == 0 and left <= self._first + every:
            return left
        return (self._first // every + 1) * every

    def _on_rollout_start(self) -> None:
        now, steps = time.perf_counter(), self.model.steps
        if steps > self._first:
            self._log(now)
        self._leave_if_interrupted()
        # The first rank's clock decides, since saving needs all ranks.
        if distributed.from_first(now - self._saved, self.model.device) > self.progress.checkpoint_s:
            self.save()
            self._saved = now
        if self._next_score is not None and steps >= self._next_score:
            self._next_score += self.progress.evaluate_every
            self._evaluate(steps)
            if not self._stopped:  # else the training ends by itself
                self._leave_if_interrupted()

    def _on_training_end(self) -> None:
        self._log(time.perf_counter(), show=True)
        self.save()
        if self._writer is not None:
            self._writer.close()
        self._leave_if_interrupted(saved=True)

    def _leave_if_interrupted(self, *, saved: bool = False) -> None:
        """Save and end if a signal has come to any rank; a rank that ended alone would leave the others waiting.

        Raises:
            KeyboardInterrupt: If so, on every rank, once all is written.
        """
        if not distributed.on_any(self._interrupted.is_set(), self.model.device):
            return
        if not saved:
            self.save()
        if self._writer is not None:
            self._writer.close()
            logger.info("interrupted: %.3fM steps are saved in %s", self.model.steps / 1e6, self.folder)
        distributed.wait_for_all()  # launchers stop the others once one has ended
        raise KeyboardInterrupt

    def _evaluate(self, steps: int) -> None:
        """Score the policy on the first rank and stop all ranks once the target was reached often enough."""
        if self._first_rank:
            found = {f"evaluation/{name}": float(value) for name, value in self._score(self.model).items()}
            seconds = self._earlier + time.perf_counter() - self._begin
            self.scores.append({"steps": float(steps), "seconds": seconds, **found})
            said = ", ".join(f"{name[11:]} {value:.4g}" for name, value in found.items())
            logger.info("scored at %.3fM steps: %s", steps / 1e6, said)
            for name, value in found.items():
                self._writer.add_scalar(name, value, steps)
        target = self.progress.target_success
        recent = [score["evaluation/success_rate"] for score in self.scores[-REPEATS:]]
        reached = target is not None and len(recent) == REPEATS and min(recent) >= target
        self._stopped = bool(distributed.from_first(float(reached), self.model.device))
        if self._stopped and self._first_rank:
            logger.info("success of %.3g or more, %d times in a row: training ends", target, REPEATS)

    def save(self) -> None:
        """Write weights, training state and meta.json; every rank must call it."""
        model = self.model
        state, diverged = self._training_state(), self._diverged()
        if not self._first_rank:
            return
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_bytes(self.folder / STATE_FILE, buffer.getvalue())
        model.average.policy.save(self.folder)
        spent = time.perf_counter() - self._begin
        progress = {
            "steps": model.steps,
            "processes": model.ranks,
            "seconds": self._earlier + spent,
            "seconds_this_session": spent,
            "diverged_worlds": diverged,
            "scores": list(self.scores),
            "next_score": self._next_score,
        }
        # A score of which nothing survived has no errors, and a divergence may be infinite.
        write_json(self.folder / META_FILE, finite({**self.meta, **progress, "metrics": dict(self.metrics)}))

    def _training_state(self) -> dict[str, object]:
        """Collect what a resume needs; every rank must call it."""
        return training_state(self.model)

    def _diverged(self) -> int:
        """Count the simulations that blew up so far, over the robots of all ranks; every rank must call it."""
        own = torch.tensor(float(self.model.env.diverged), dtype=torch.float64, device=self.model.device)
        return int(distributed.synchronised_sum(own))

    def _episode_metrics(self) -> dict[str, float]:
        """Return length [s], return and share of lost ones of the latest episodes."""
        return {
            "mean_episode_s": float(np.mean(self._lengths)) if self._lengths else 0.0,
            "mean_return": float(np.mean(self._returns)) if self._returns else 0.0,
            "lost_share": float(np.mean(self._lost)) if self._lost else 0.0,
        }

    def _log(self, now: float, *, show: bool = False) -> None:
        steps = self.model.steps
        rate = (steps - self._first) / max(now - self._begin, 1e-9)
        self.metrics = {
            **self._episode_metrics(),
            "mean_bin_failure": self.model.env.sampler.mean_failure,
            "diverged_worlds": float(self._diverged()),
            "steps_per_s": rate,
            **self.model.statistics,
        }
        if self._writer is None:
            return
        for name, value in self.metrics.items():
            self._writer.add_scalar(f"train/{name}", value, steps)
        if show or now - self._shown > 10.0:
            self._shown = now
            left = (self.progress.total - steps) / max(rate, 1e-9)
            logger.info(
                "step %.3fM of %.3fM, %.0f steps/s, %.0f s left: episode %.2f s, lost %.0f %%, return %.3f, "
                "kl %.4f, rate %.1e, std %.2f, failure %.2f",
                steps / 1e6,
                self.progress.total / 1e6,
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
