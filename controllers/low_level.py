"""Training the low-level policy: flags, run folder, checkpoints, exact resume."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from motionlex.controllers.distillation import check_teacher
from motionlex.controllers.generated_library import load_generated
from motionlex.controllers.low_level_config import LowLevelConfig, resolve_config
from motionlex.controllers.low_level_flags import LowLevelFlags
from motionlex.controllers.low_level_imitation import IMITATION_FILE, forget_imitation, imitate
from motionlex.controllers.low_level_policy import LowLevelPolicy
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
from motionlex.controllers.low_level_seeds import seed_of, torch_seed_of
from motionlex.controllers.low_level_setup import (
    build_policy,
    build_task,
    input_digests,
    load_library,
    load_low_level_config,
)
from motionlex.controllers.low_level_state import RunCallback, load_training_state
from motionlex.controllers.ppo import TrackingPPO
from motionlex.controllers.ppo_config import native_precision
from motionlex.data.errors import UserError, check_number, check_seed
from motionlex.envs.batched import BatchedTracking
from motionlex.envs.checks import available_cores, check_crowding
from motionlex.envs.task import TrackingTask
from motionlex.motion_vae import checkpoint, distributed
from motionlex.motion_vae.interruption import postponed_interrupt
from motionlex.motion_vae.registry import PlainValue
from motionlex.motion_vae.trainer import resolve_device

logger = logging.getLogger(__name__)
CRITIC_FIRST = 40
"""Updates after imitation in which only the critic learns."""


def train_low_level(flags: LowLevelFlags) -> dict[str, PlainValue]:
    """Create or continue a run and train it.

    Args:
        flags: What the user asked for.

    Returns:
        Keys run, steps, seconds, seconds_per_step and the final metrics by name.

    Raises:
        KeyboardInterrupt: After Ctrl-C or SIGTERM to any process; the training is saved then.
        UserError: On any mistake of the user.
    """
    _check_flags(flags)
    device = resolve_device(flags.device)
    ranks = distributed.launched_ranks()
    here = int(os.environ.get("LOCAL_WORLD_SIZE", ranks))  # those of this machine
    threads = flags.threads or _asked_threads() or max(1, available_cores() // here)
    torch.set_num_threads(threads)
    if here > 1 and distributed.launched_rank() == 0:
        check_crowding(here, threads)
    backend = flags.backend if flags.resume is None else load_low_level_config(flags.resume).backend
    with distributed.process_group(device):
        if backend == "warp":
            return _on_warp(flags, str(device), threads)
        if flags.resume is not None:
            return _resume(flags, flags.resume, str(device), threads)
        return _create(flags, str(device), threads)


def _on_warp(flags: LowLevelFlags, device: str, threads: int) -> dict[str, PlainValue]:
    try:
        from motionlex.controllers.warp_training import train_on_warp
    except ModuleNotFoundError as error:
        raise UserError(
            f"--backend warp needs the package {error.name}: install motionlex with its extra 'warp' (Python 3.11 or "
            "later), or use --backend cpu"
        ) from error
    return train_on_warp(flags, device, threads)


def default_processes(flags: LowLevelFlags) -> int:
    """Return how many processes a plain command starts: one per core while each keeps at least 64 robots.

    On a GPU it is one, whatever simulates: every further process would need a GPU of its own.

    Two processes of one thread take 1.4 times the steps of one process with two threads.
    """
    _check_flags(flags)
    if flags.processes is not None:
        if flags.resume is None:
            worlds_per_rank(resolve_config(flags), flags.processes)  # before a thousand processes find that out
        return flags.processes
    if flags.resume is not None:
        load_low_level_config(flags.resume)  # says in words what is wrong with the folder
        meta = checkpoint.read_json(flags.resume / checkpoint.META_FILE)
        return int(str(meta.get("processes", 1)))
    on_cpu = flags.backend == "cpu" and flags.device == "cpu"
    if flags.threads is not None or _asked_threads() or not on_cpu:
        return 1
    return _processes_for(resolve_config(flags).ppo.worlds)


def _asked_threads() -> int:
    """Return how many threads OMP_NUM_THREADS asks for: the first number of its list, 0 where it says none."""
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(first) if first.isdecimal() else 0


def _processes_for(worlds: int) -> int:
    """Return how many processes may share the robots: one per core, each with at least 64 of them."""
    return max(n for n in range(1, available_cores() + 1) if worlds % n == 0 and (n == 1 or worlds >= 64 * n))


def _check_flags(flags: LowLevelFlags) -> None:
    """Refuse numbers out of their ranges.

    Raises:
        UserError: Naming the flag.
    """
    for name in ("steps", "worlds", "threads", "processes", "hz", "distill_steps", "checkpoint_s", "code_draws"):
        check_number(f"--{name.replace('_', '-')}", getattr(flags, name), above=0)
    for name in ("push", "evaluate_every"):
        check_number(f"--{name.replace('_', '-')}", getattr(flags, name), at_least=0)
    check_number("--target-success", flags.target_success, above=0, at_most=1)
    if flags.target_success is not None and flags.evaluate_every == 0:
        raise UserError("--target-success is found by scoring: give --evaluate-every above 0, or leave it out")
    check_number("--generated-minutes", flags.generated_minutes, above=0)
    check_number("--generated-share", flags.generated_share, above=0, at_most=0.99)
    check_seed(flags.seed)


def _tell_of_cores(flags: LowLevelFlags, worlds: int, device: str) -> None:
    """Say so where nothing but OMP_NUM_THREADS keeps a training to one process."""
    threads = _asked_threads()
    chosen = flags.processes or flags.threads or distributed.launched_ranks() > 1 or device != "cpu"
    if threads and not chosen and (most := _processes_for(worlds)) > 1:
        logger.warning(
            "one process, since OMP_NUM_THREADS is %d; --processes %d takes all cores and is faster", threads, most
        )


def _create(flags: LowLevelFlags, device: str, threads: int) -> dict[str, PlainValue]:
    config = resolve_config(flags)
    if config.ppo.precision == "auto":
        config = replace(config, ppo=replace(config.ppo, precision=native_precision(device)))
    folder = new_folder(flags, config)
    library, digest = load_library(config, named=config.clips)
    generated = load_generated(config)
    task, codebook = build_task(config, library, device, draws=config.code_draws, generated=generated)
    if config.teacher is not None:
        check_teacher(LowLevelPolicy.load(Path(config.teacher)), task)  # before the run folder is made
    policy = build_policy(config, task, codebook)
    model = _trainer(config, task, policy, device, threads)
    facts = {"library_frames": library.frames, **input_digests(config, digest, generated)}
    meta = write_new(folder, config, policy, facts)
    _tell_of_cores(flags, config.ppo.worlds, device)
    return _run(flags, config, model, folder, meta, threads)


def _resume(flags: LowLevelFlags, folder: Path, device: str, threads: int) -> dict[str, PlainValue]:
    config, meta = resumed(flags, folder)
    library, digest = load_library(config, flags.data_root)
    generated = load_generated(config)
    check_inputs(folder, meta, input_digests(config, digest, generated))
    task, codebook = build_task(config, library, device, draws=config.code_draws, generated=generated)
    trained = (folder / checkpoint.STATE_FILE).is_file() or config.teacher is None
    begun = trained or (folder / IMITATION_FILE).is_file()  # whose weights take the place of those of --init
    policy = build_policy(replace(config, init=None) if begun else config, task, codebook)
    model = _trainer(config, task, policy, device, threads)
    if trained:
        load_training_state(folder, model)
    write_resumed(folder, config, model.steps)
    return _run(flags, config, model, folder, meta, threads)


def _trainer(
    config: LowLevelConfig, task: TrackingTask, policy: LowLevelPolicy, device: str, threads: int
) -> TrackingPPO:
    rank = distributed.rank()
    own = np.random.default_rng(seed_of(config.seed, "environment", rank))
    env = BatchedTracking(task, worlds=worlds_per_rank(config), threads=threads, generator=own)
    generator = torch.Generator().manual_seed(torch_seed_of(config.seed, "exploration", rank))
    warm_up = CRITIC_FIRST if config.teacher is not None else 0
    return TrackingPPO(env, policy, config.ppo, generator, device, critic_first=warm_up)


def _run(
    flags: LowLevelFlags,
    config: LowLevelConfig,
    model: TrackingPPO,
    folder: Path,
    meta: Mapping[str, PlainValue],
    threads: int,
) -> dict[str, PlainValue]:
    """Train to ``config.steps``, or until Ctrl-C or SIGTERM; save, and at the end evaluate and summarise."""
    begin, done, imitation = time.perf_counter(), model.steps, 0.0
    together = min(threads * model.ranks, available_cores())  # the other ranks wait meanwhile
    score = Scorer(model.env.task, config, together)
    with postponed_interrupt(launched=model.ranks > 1) as interrupted:
        if config.teacher is not None and not (folder / checkpoint.STATE_FILE).is_file():  # PPO has no checkpoint yet
            meta = {**meta, "seconds": imitate(config, model, folder, flags.checkpoint_s, interrupted)}
            imitation = time.perf_counter() - begin
        progress, meta = progress_plan(flags, config, meta)
        callback = RunCallback(folder, meta, progress, lambda trained: score(trained.average.policy), interrupted)
        left = -(-(config.steps - done) // model.ranks)
        model.learn(left, callback=callback, reset_num_timesteps=False, log_interval=1 << 30)
    forget_imitation(folder)
    seconds = time.perf_counter() - begin
    metrics: dict[str, PlainValue] = dict(callback.metrics)
    if flags.evaluate and distributed.rank() == 0:
        metrics = evaluated(folder, config, model.env.task, model.average.policy, metrics, together)
    return summary(folder, metrics, steps=model.steps, earlier=done, seconds=seconds, imitation=imitation)
