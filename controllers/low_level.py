"""Training the low-level policy: flags, run folder, checkpoints, exact resume."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

from motionlex.controllers.commands import build_command_source, decoded_errors
from motionlex.controllers.distillation import DistillationConfig, distil
from motionlex.controllers.evaluation_tracking import Report, evaluate_tracking, quick_score
from motionlex.controllers.generated import GeneratedMotion
from motionlex.controllers.generated_library import add_generated, load_generated
from motionlex.controllers.low_level_config import LowLevelConfig, LowLevelFlags, resolve_config, select_clips
from motionlex.controllers.low_level_policy import LowLevelPolicy, PolicyShape, read_plain, read_weights
from motionlex.controllers.low_level_state import Progress, RunCallback, load_training_state
from motionlex.controllers.ppo import TrackingPPO, native_precision
from motionlex.data.datasets import load_dataset
from motionlex.data.errors import UserError, check_number, check_seed
from motionlex.data.robots import get_robot
from motionlex.data.storage import finite, write_json
from motionlex.envs.batched import BatchedTracking
from motionlex.envs.joining import first_part
from motionlex.envs.reference import MotionLibrary, settle, smooth
from motionlex.envs.task import TrackingTask
from motionlex.motion_vae import checkpoint, distributed
from motionlex.motion_vae.checkpoint import load_run
from motionlex.motion_vae.registry import PlainValue
from motionlex.motion_vae.trainer import resolve_device
from motionlex.motion_vae.training import data_hash

__all__ = ["LowLevelConfig", "LowLevelFlags", "LowLevelPolicy", "build_command_source", "train_low_level"]

logger = logging.getLogger(__name__)
IMITATION_FILE = "imitation.json"
IMITATED_STD = 0.15
"""Standard deviation of the actions with which PPO continues after imitation."""
SCORE_EVERY = 150_000
"""Control steps between two scores where a target is given."""
CRITIC_FIRST = 20
"""Updates after imitation in which only the critic learns."""


def train_low_level(flags: LowLevelFlags) -> dict[str, PlainValue]:
    """Create or continue a run and train it.

    Args:
        flags: What the user asked for.

    Returns:
        Keys run, steps, seconds, seconds_per_step and the final metrics by name.

    Raises:
        UserError: On any mistake of the user.
    """
    for name in ("steps", "worlds", "threads", "processes", "hz", "distill_steps", "checkpoint_s", "code_draws"):
        check_number(f"--{name.replace('_', '-')}", getattr(flags, name), above=0)
    for name in ("push", "evaluate_every"):
        check_number(f"--{name.replace('_', '-')}", getattr(flags, name), at_least=0)
    check_number("--target-success", flags.target_success, above=0, at_most=1)
    check_number("--generated-minutes", flags.generated_minutes, above=0)
    check_number("--generated-share", flags.generated_share, above=0, at_most=0.99)
    check_seed(flags.seed)
    device = resolve_device(flags.device)
    ranks = distributed.launched_ranks()
    threads = flags.threads or int(os.environ.get("OMP_NUM_THREADS") or 0) or max(1, (os.cpu_count() or 1) // ranks)
    torch.set_num_threads(threads)
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

    Two processes of one thread take 1.4 times the steps of one process with two threads.
    """
    if flags.processes is not None:
        return flags.processes
    if flags.resume is not None:
        load_low_level_config(flags.resume)  # says in words what is wrong with the folder
        meta = checkpoint.read_json(flags.resume / checkpoint.META_FILE)
        return int(str(meta.get("processes", 1)))
    if flags.threads is not None or os.environ.get("OMP_NUM_THREADS") or flags.backend != "cpu":
        return 1
    worlds = resolve_config(flags).ppo.worlds
    return max(n for n in range(1, (os.cpu_count() or 1) + 1) if worlds % n == 0 and (n == 1 or worlds >= 64 * n))


def load_library(config: LowLevelConfig, data_root: Path | None = None) -> tuple[MotionLibrary, str]:
    """Load, prepare and cut the motions of a run; also return the hash of the clips.

    Raises:
        UserError: On unknown clips or unusable data.
    """
    robot = get_robot(config.robot)
    root = data_root or (None if config.data_root is None else Path(config.data_root))
    data = load_dataset(config.data, root, hz=config.task.hz)
    clips = select_clips(data.clips, config.clips) if config.clips else data.train
    digest = data_hash(clips)
    if config.prepare:
        clips = tuple(settle(smooth(clip), robot) for clip in clips)
    return MotionLibrary(clips, robot, config.task.hz), digest


def build_task(
    config: LowLevelConfig,
    library: MotionLibrary,
    device: str,
    *,
    draws: int = 1,
    generated: GeneratedMotion | None = None,
) -> tuple[TrackingTask, torch.Tensor | None]:
    """Build the task with its command; also return the codebook for goal latent.

    Args:
        config: The run.
        library: Motions of the data set.
        device: Torch device of the autoencoder.
        draws: Draws of the codes of every segment: training wants ``config.code_draws``, evaluation one.
        generated: Motions of a high-level policy that are to be trained on as well; evaluation wants none.
    """
    autoencoder = None if config.vae is None or config.task.goal == "reference" else load_run(config.vae, device)
    command = build_command_source(
        config.task.goal, library, autoencoder, ahead=config.task.ahead, seed=config.seed, variants=draws
    )
    if config.task.goal == "decoded":
        for name, value in decoded_errors(library, command).items():
            logger.info("%s %.4g", name, value)
    if generated is not None:
        library, command = add_generated(library, command, generated, config.task, config.generated_share)
    task = TrackingTask(library.robot, library, config.task, command)
    if autoencoder is None or config.task.goal != "latent":
        return task, None
    if autoencoder.model.codebook is None:
        raise UserError(
            f"goal latent needs one codebook, and method {autoencoder.config.method!r} has none: "
            "use goal decoded, or another method"
        )
    return task, autoencoder.model.codebook.detach().cpu()


def build_policy(config: LowLevelConfig, task: TrackingTask, codebook: torch.Tensor | None) -> LowLevelPolicy:
    """Build the initial policy from the seed, or from ``config.init``.

    Raises:
        UserError: If the initial weights have another layout.
    """
    shape = PolicyShape(
        observation=task.policy_size,
        critic_observation=task.observation_size,
        actions=task.actions,
        action_limit=task.action_limit,
        hidden=config.hidden,
        initial_std=config.ppo.initial_std,
        tokens=0 if task.command.codes is None else task.command.codes.shape[2],
        vocabulary=0 if codebook is None else codebook.shape[0],
        code_width=0 if codebook is None else codebook.shape[1],
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        policy = LowLevelPolicy(shape, config.task)
    if codebook is not None:
        policy.set_codebook(codebook)
    if config.init is not None:
        try:
            policy.load_state_dict(read_weights(Path(config.init) / checkpoint.WEIGHTS_FILE))
        except RuntimeError as error:
            raise UserError(f"--init {config.init}: its networks differ from this run's: {error}") from error
    return policy


def _create(flags: LowLevelFlags, device: str, threads: int) -> dict[str, PlainValue]:
    config = resolve_config(flags)
    if config.ppo.precision == "auto":
        config = replace(config, ppo=replace(config.ppo, precision=native_precision(device)))
    name = f"lowlevel_{config.data}_{config.task.goal}_{config.preset}_{config.seed}"
    folder = flags.out or Path("runs") / name
    if distributed.rank() == 0:  # the others may come when it exists already
        checkpoint.check_new(folder)
    if config.teacher is not None:
        LowLevelPolicy.load(Path(config.teacher))  # a wrong one is found before the run folder is made
    library, digest = load_library(config)
    generated = load_generated(config)
    task, codebook = build_task(config, library, device, draws=config.code_draws, generated=generated)
    policy = build_policy(config, task, codebook)
    meta = {**checkpoint.provenance(), "seed": config.seed, "data_sha256": digest, "library_frames": library.frames}
    meta |= {} if generated is None else {"generated_sha256": generated.key}
    model = _trainer(config, task, policy, device, threads)
    if distributed.rank() == 0:
        with checkpoint.NewRunFolder(folder) as partial:
            write_json(partial / checkpoint.CONFIG_FILE, asdict(config))
            write_json(partial / checkpoint.META_FILE, {**meta, "steps": 0, "processes": model.ranks})
            policy.save(partial)
    return _run(flags, config, model, folder, meta, threads)


def _imitate(config: LowLevelConfig, model: TrackingPPO, folder: Path, checkpoint_s: float) -> None:
    """Let the policy learn from the teacher, then leave it with the small noise that suits a trained policy.

    The policy is saved on the way; a broken imitation continues from there (PPO's part resumes exactly, this does not).
    """
    path = folder / IMITATION_FILE
    state = checkpoint.read_json(path) if path.is_file() else {"steps": 0}
    done, policy = int(str(state["steps"])), model.policy.network
    if done:
        policy.load_state_dict(read_weights(folder / checkpoint.WEIGHTS_FILE))
    if done >= config.distill_steps:
        return
    saved = time.perf_counter()

    def save(steps: int) -> None:
        nonlocal saved
        if distributed.rank() == 0 and time.perf_counter() - saved > checkpoint_s and steps < config.distill_steps:
            saved = time.perf_counter()
            policy.save(folder)
            write_json(path, {"steps": steps})

    recipe, teacher = DistillationConfig(steps=config.distill_steps), LowLevelPolicy.load(Path(str(config.teacher)))
    scores = distil(
        policy,
        teacher,
        model.env,
        recipe,
        model.generator,
        precision=config.ppo.precision,
        done=done,
        on_progress=save,
    )
    policy.log_std.data.fill_(float(np.log(IMITATED_STD)))
    if distributed.rank() == 0:
        policy.save(folder)
        write_json(path, {"steps": config.distill_steps, **scores})


def load_low_level_config(folder: Path) -> LowLevelConfig:
    """Read config.json of a run.

    Raises:
        UserError: If the folder is not a run.
    """
    path = Path(folder) / checkpoint.CONFIG_FILE
    if not path.is_file():
        raise UserError(f"{folder} is not a run of train_lowlevel: it has no {checkpoint.CONFIG_FILE}")
    return checkpoint.read_config(LowLevelConfig, read_plain(path), folder, "train_lowlevel")


def _resume(flags: LowLevelFlags, folder: Path, device: str, threads: int) -> dict[str, PlainValue]:
    config = load_low_level_config(folder)
    config = replace(config, steps=flags.steps or config.steps)
    library, digest = load_library(config, flags.data_root)
    meta = checkpoint.read_json(folder / checkpoint.META_FILE)
    if meta.get("data_sha256") != digest:
        raise UserError(f"--resume {folder}: the motions differ from those the run was started with")
    generated = load_generated(config)
    if generated is not None and meta.get("generated_sha256") != generated.key:
        raise UserError(f"--resume {folder}: {config.generated} has changed since the run was started")
    task, codebook = build_task(config, library, device, draws=config.code_draws, generated=generated)
    policy = build_policy(replace(config, init=None), task, codebook)
    model = _trainer(config, task, policy, device, threads)
    if (folder / checkpoint.STATE_FILE).is_file() or config.teacher is None:
        load_training_state(folder, model)
    if model.steps >= config.steps:
        raise UserError(f"--resume {folder}: {model.steps} steps are done already; give --steps beyond that")
    if distributed.rank() == 0:
        write_json(folder / checkpoint.CONFIG_FILE, asdict(config))
    return _run(flags, config, model, folder, meta, threads)


def _trainer(
    config: LowLevelConfig, task: TrackingTask, policy: LowLevelPolicy, device: str, threads: int
) -> TrackingPPO:
    ranks, rank = distributed.world_size(), distributed.rank()
    if config.ppo.worlds % ranks:
        raise UserError(f"{config.ppo.worlds} robots cannot be shared by {ranks} processes: give another --worlds")
    own = (config.seed, 1, rank) if rank else (config.seed, 1)  # rank 0 starts as a single process does
    env = BatchedTracking(
        task, worlds=config.ppo.worlds // ranks, threads=threads, generator=np.random.default_rng(own)
    )
    generator = torch.Generator().manual_seed(config.seed + 7919 * rank)
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
    """Train to ``config.steps``, save, evaluate and summarise."""
    begin, done = time.perf_counter(), model.steps
    if config.teacher is not None and done == 0:
        _imitate(config, model, folder, flags.checkpoint_s)
    every = SCORE_EVERY if flags.evaluate_every is None and flags.target_success is not None else flags.evaluate_every
    progress = Progress(
        total=config.steps,
        checkpoint_s=flags.checkpoint_s,
        evaluate_every=every or 0,
        target_success=flags.target_success,
    )
    callback = RunCallback(folder, dict(meta), progress, lambda model: score_run(model, config, threads))
    left = -(-(config.steps - done) // model.ranks)
    model.learn(left, callback=callback, reset_num_timesteps=False, log_interval=1 << 30)
    seconds = time.perf_counter() - begin
    steps = model.steps
    metrics: dict[str, PlainValue] = dict(callback.metrics)
    if flags.evaluate and distributed.rank() == 0:
        metrics |= {k: v for k, v in evaluate_run(model, config, threads).items() if k not in ("clips", "hz")}
        write_json(folder / "evaluation.json", finite(metrics))
    return {
        "run": str(folder),
        "steps": steps,
        "seconds": seconds,
        "seconds_per_step": seconds / max(steps - done, 1),
        "processes": model.ranks,
        **metrics,
    }


def score_run(model: TrackingPPO, config: LowLevelConfig, threads: int) -> dict[str, float]:
    """Score a trainer's policy; see :func:`score_policy`."""
    return score_policy(model.env.task, model.policy.network, config, threads)


def evaluate_run(model: TrackingPPO, config: LowLevelConfig, threads: int) -> Report:
    """Evaluate a trainer's policy; see :func:`evaluate_policy`."""
    return evaluate_policy(model.env.task, model.policy.network, config, threads)


def score_policy(task: TrackingTask, policy: LowLevelPolicy, config: LowLevelConfig, threads: int) -> dict[str, float]:
    """Score the deterministic policy on few rollouts of the data set's motions, with the task's start noise."""
    library, command = first_part(task.library, task.command)
    return quick_score(policy, library, command, robot=task.robot, config=config.task, threads=threads)


def evaluate_policy(task: TrackingTask, policy: LowLevelPolicy, config: LowLevelConfig, threads: int) -> Report:
    """Evaluate the trained policy on the data set's part of its library, each segment with its first draw of codes."""
    library, command = first_part(task.library, task.command)
    runs = len(library.run_starts)
    per_run = max(1, min(8, 256 // runs))
    repeats = max(1, 32 // runs)  # few motions: several rollouts of each, from disturbed starts
    return evaluate_tracking(
        policy.eval(),
        library,
        command,
        robot=task.robot,
        config=config.task,
        per_run=per_run,
        threads=threads,
        repeats=repeats,
        noise=repeats > 1,
    )
