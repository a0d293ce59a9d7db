"""``train_lowlevel --backend warp``: run folder, progress, checkpoints and resume around the trainer on the GPU."""

from __future__ import annotations

import importlib.metadata
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from motionlex.controllers.generated_library import load_generated
from motionlex.controllers.low_level_config import LowLevelConfig, resolve_config
from motionlex.controllers.low_level_flags import LowLevelFlags
from motionlex.controllers.low_level_resume import check_inputs, progress_plan, resumed
from motionlex.controllers.low_level_run import (
    evaluated,
    new_folder,
    summary,
    worlds_per_rank,
    write_new,
    write_resumed,
)
from motionlex.controllers.low_level_scores import Scorer
from motionlex.controllers.low_level_seeds import torch_seed_of
from motionlex.controllers.low_level_setup import build_policy, build_task, input_digests, load_library
from motionlex.controllers.low_level_state import Progress, RunCallback
from motionlex.controllers.warp_trainer import WarpTrainer
from motionlex.data.errors import UserError
from motionlex.envs.task import TrackingTask
from motionlex.envs.warp import EpisodeTotals, WarpTracking
from motionlex.motion_vae import checkpoint, distributed
from motionlex.motion_vae.interruption import postponed_interrupt
from motionlex.motion_vae.registry import PlainValue

logger = logging.getLogger(__name__)
_LATEST = 1000
"""Episodes over which progress is averaged."""


def train_on_warp(flags: LowLevelFlags, device: str, threads: int) -> dict[str, PlainValue]:
    """Create or continue a run on MuJoCo Warp and train it.

    Args:
        flags: What the user asked for, numbers checked.
        device: Torch device of simulation and networks; under torchrun this rank's own.
        threads: Threads of the evaluation on the CPU.

    Returns:
        Keys run, steps, seconds, seconds_per_step and the final metrics by name.

    Raises:
        KeyboardInterrupt: After Ctrl-C or SIGTERM to any process; the training is saved then.
        UserError: On any mistake of the user.
    """
    if torch.device(device).type == "cpu":
        logger.warning("MuJoCo Warp runs on the CPU: good for a trial, slow; give --device cuda")
    if flags.resume is not None:
        return _resume(flags, flags.resume, device, threads)
    return _create(flags, device, threads)


class WarpCallback(RunCallback):
    """Progress, TensorBoard and checkpoints as on the CPU, once per update."""

    def __init__(
        self,
        folder: Path,
        meta: Mapping[str, PlainValue],
        progress: Progress,
        score: Callable[[WarpTrainer], Mapping[str, float]],
        trainer: WarpTrainer,
        interrupted: threading.Event | None = None,
    ) -> None:
        """Attach to a trainer; other arguments as for the CPU's callback."""
        super().__init__(folder, dict(meta), progress, score, interrupted)
        self.model = trainer
        self._reports: deque[EpisodeTotals] = deque()
        self._warned: set[str] = set()

    @property
    def stopped(self) -> bool:
        """Whether the target was reached."""
        return self._stopped

    def _training_state(self) -> dict[str, object]:
        return self.model.state()

    def _episode_metrics(self) -> dict[str, float]:
        env = self.model.env
        self._reports.append(env.report())
        while sum(report.episodes for report in self._reports) - self._reports[0].episodes >= _LATEST:
            self._reports.popleft()
        totals = [sum(getattr(r, name) for r in self._reports) for name in ("episodes", "steps", "returns", "lost")]
        episodes = max(totals[0], 1.0)
        overflow = env.physics.overflow()
        for kind in overflow.keys() - self._warned:
            self._warned.add(kind)
            logger.warning(
                "%s was too small in %d worlds, whose contacts were not all simulated: give larger buffers, now "
                "--set contacts=%d constraints=%d",
                *(kind, overflow[kind], env.physics.buffers.contacts, env.physics.buffers.constraints),
            )
        return {
            "mean_episode_s": totals[1] / episodes / env.task.config.hz,
            "mean_return": totals[2] / episodes,
            "lost_share": totals[3] / episodes,
            "overflowed_worlds": float(sum(overflow.values())),
        }


def learn(trainer: WarpTrainer, callback: WarpCallback, total: int) -> None:
    """Train until ``total`` control steps are done or the callback's target is reached."""
    cuda = [trainer.device] if trainer.device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        trainer.start_randomness()
        callback._on_training_start()
        while trainer.steps < total and not callback.stopped:
            callback._on_rollout_start()
            if not callback.stopped:  # what reached the target is kept
                trainer.improve(total)
        callback._on_training_end()


def _create(flags: LowLevelFlags, device: str, threads: int) -> dict[str, PlainValue]:
    config = resolve_config(flags)
    if config.teacher is not None:
        raise UserError("--teacher needs --backend cpu; its run can then be the --init of one with --backend warp")
    folder = new_folder(flags, config)
    task, trainer, digests = _prepare(config, device, None, named=config.clips)
    facts = {"library_frames": task.library.frames, **digests}
    facts |= {"device": _device_name(trainer.device), "warp_versions": _versions()}
    meta = write_new(folder, config, trainer.policy.network, facts)
    return _run(flags, config, task, trainer, folder, meta, threads)


def _resume(flags: LowLevelFlags, folder: Path, device: str, threads: int) -> dict[str, PlainValue]:
    config, meta = resumed(flags, folder)
    task, trainer, digests = _prepare(replace(config, init=None), device, flags.data_root)
    check_inputs(folder, meta, digests)
    state = checkpoint.load_state(folder)
    try:
        if len(state["ranks"]) != trainer.ranks:
            raise UserError(f"{folder} was trained by {len(state['ranks'])} process(es), not {trainer.ranks}")
        trainer.restore(state)
    except (KeyError, RuntimeError, ValueError) as error:
        raise UserError(f"{folder / checkpoint.STATE_FILE} does not fit this run: {error}") from error
    write_resumed(folder, config, trainer.steps)
    return _run(flags, config, task, trainer, folder, meta, threads)


def _prepare(
    config: LowLevelConfig, device: str, data_root: Path | None, *, named: Sequence[str] = ()
) -> tuple[TrackingTask, WarpTrainer, dict[str, str]]:
    """Build the task on the host (for evaluations) and the trainer on the device; also return hashes of the motions."""
    rank, worlds = distributed.rank(), worlds_per_rank(config)
    library, digest = load_library(config, data_root, named=named)
    generated = load_generated(config)
    task, codebook = build_task(config, library, device, draws=config.code_draws, generated=generated)
    policy = build_policy(config, task, codebook)
    moved = TrackingTask(task.robot, task.library.to(device), config.task, task.command.to(device))
    place = torch.empty(0, device=device).device  # with the index of the GPU
    generator = torch.Generator(device=place).manual_seed(torch_seed_of(config.seed, "environment", rank))
    env = WarpTracking(moved, worlds=worlds, generator=generator, buffers=config.buffers)
    digests = input_digests(config, digest, generated)
    return task, WarpTrainer(env, policy, config.ppo, seed=torch_seed_of(config.seed, "exploration", rank)), digests


def _run(
    flags: LowLevelFlags,
    config: LowLevelConfig,
    task: TrackingTask,
    trainer: WarpTrainer,
    folder: Path,
    meta: Mapping[str, PlainValue],
    threads: int,
) -> dict[str, PlainValue]:
    """Train to ``config.steps``, or until Ctrl-C or SIGTERM; save, and at the end evaluate on the CPU and summarise."""
    begin, done = time.perf_counter(), trainer.steps
    progress, meta = progress_plan(flags, config, meta)
    score = Scorer(task, config, threads)

    def scored(trained: WarpTrainer) -> Mapping[str, float]:
        return score(trained.average.policy)

    with postponed_interrupt(launched=trainer.ranks > 1) as interrupted:
        callback = WarpCallback(folder, meta, progress, scored, trainer, interrupted)
        learn(trainer, callback, config.steps)
    seconds = time.perf_counter() - begin
    metrics: dict[str, PlainValue] = dict(callback.metrics)
    if flags.evaluate and distributed.rank() == 0:
        metrics = evaluated(folder, config, task, trainer.average.policy.cpu(), metrics, threads)
    return summary(folder, metrics, steps=trainer.steps, earlier=done, seconds=seconds)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in ("warp-lang", "mujoco-warp", "rsl-rl-lib")}
