"""The folder and the result of a low-level run: the same whatever simulates the robots."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

from motionlex.controllers.low_level_config import LowLevelConfig
from motionlex.controllers.low_level_flags import LowLevelFlags
from motionlex.controllers.low_level_policy import LowLevelPolicy
from motionlex.controllers.low_level_scores import evaluate_policy, final_figures
from motionlex.data.errors import UserError
from motionlex.data.storage import finite, write_json
from motionlex.envs.task import TrackingTask
from motionlex.motion_vae import checkpoint, distributed
from motionlex.motion_vae.registry import PlainValue


def new_folder(flags: LowLevelFlags, config: LowLevelConfig) -> Path:
    """Return where a new run goes.

    Raises:
        UserError: If there is something already.
    """
    backend = "" if config.backend == "cpu" else f"_{config.backend}"
    name = f"lowlevel_{config.data}_{config.task.goal}_{config.preset}{backend}_{config.seed}"
    folder = flags.out or Path("runs") / name
    on_first(lambda: checkpoint.check_new(folder))  # the others may come when it exists already
    return folder


def on_first(work: Callable[[], None]) -> None:
    """Do something on the first rank only; a mistake found by it ends all ranks with the same words.

    Raises:
        UserError: What the work raised, on every rank: who goes on alone waits for the others, and dies of it.
    """
    mistake = None
    if distributed.rank() == 0:
        try:
            work()
        except UserError as error:
            mistake = str(error)
    if (mistake := distributed.gather(mistake)[0]) is not None:
        raise UserError(mistake)


def write_new(
    folder: Path, config: LowLevelConfig, policy: LowLevelPolicy, facts: Mapping[str, PlainValue]
) -> dict[str, PlainValue]:
    """Make the folder of a new run with configuration, provenance and initial policy, all of them or nothing.

    Args:
        folder: Where.
        config: The run.
        policy: Before its first step.
        facts: What meta.json says besides provenance and seed.

    Returns:
        What meta.json is to say as long as the run lasts.
    """
    meta = {**checkpoint.provenance(), "seed": config.seed, **facts}

    def write() -> None:
        with checkpoint.NewRunFolder(folder) as partial:
            write_json(partial / checkpoint.CONFIG_FILE, asdict(config))
            begun = {"steps": 0, "processes": distributed.world_size()}
            write_json(partial / checkpoint.META_FILE, {**meta, **begun})
            policy.save(partial)

    on_first(write)
    return meta


def write_resumed(folder: Path, config: LowLevelConfig, steps: int) -> None:
    """Note the steps that a run is continued to.

    Raises:
        UserError: If they are done already.
    """
    if steps >= config.steps:
        raise UserError(f"--resume {folder}: {steps} steps are done already; give --steps beyond that")
    if distributed.rank() == 0:
        write_json(folder / checkpoint.CONFIG_FILE, asdict(config))


def worlds_per_rank(config: LowLevelConfig, ranks: int | None = None) -> int:
    """Return how many robots each process simulates.

    Args:
        config: The run.
        ranks: Processes; None means those that there are.

    Raises:
        UserError: If they cannot be shared evenly.
    """
    ranks = ranks or distributed.world_size()
    if config.ppo.worlds % ranks:
        raise UserError(f"{config.ppo.worlds} robots cannot be shared by {ranks} processes: give another --worlds")
    return config.ppo.worlds // ranks


def evaluated(
    folder: Path,
    config: LowLevelConfig,
    task: TrackingTask,
    policy: LowLevelPolicy,
    metrics: Mapping[str, PlainValue],
    threads: int,
) -> dict[str, PlainValue]:
    """Measure how well the trained policy tracks, with MuJoCo on the CPU, and write it to evaluation.json.

    Args:
        folder: The run.
        config: Its configuration.
        task: With the library on the CPU.
        policy: Trained.
        metrics: Those of the training.
        threads: Physics threads.

    Returns:
        All metrics by name.
    """
    figures = {**metrics, **final_figures(evaluate_policy(task, policy, config, threads))}
    write_json(folder / "evaluation.json", finite(figures))
    return figures


def summary(
    folder: Path,
    metrics: Mapping[str, PlainValue],
    *,
    steps: int,
    earlier: int,
    seconds: float,
    imitation: float = 0.0,
) -> dict[str, PlainValue]:
    """Return what a run tells at its end.

    Args:
        folder: The run.
        metrics: Final metrics by name.
        steps: Control steps done, over the robots of all ranks.
        earlier: Those that were done before this session.
        seconds: Duration of this session's training [s], imitation included.
        imitation: How much of it was imitation [s], whose steps are not among those counted here.
    """
    return {
        "run": str(folder),
        "steps": steps,
        "seconds": seconds,
        "seconds_per_step": (seconds - imitation) / max(steps - earlier, 1),
        "processes": distributed.world_size(),
        **metrics,
    }
