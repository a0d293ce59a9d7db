"""Imitation before PPO: a low-level run that is broken on the way goes on with the same bits."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch

from motionlex.controllers.distillation import Distillation, DistillationConfig
from motionlex.controllers.low_level_config import LowLevelConfig
from motionlex.controllers.low_level_policy import LowLevelPolicy
from motionlex.controllers.ppo import TrackingPPO
from motionlex.data.errors import UserError
from motionlex.data.storage import atomic_file, write_json
from motionlex.motion_vae import checkpoint, distributed

IMITATION_FILE = "imitation.json"
"""Says how far the imitation came; written last, so that the states it names are whole."""
IMITATED_NOISE = 0.05
"""Standard deviation [rad] of the servo targets with which PPO continues after imitation."""


def imitate(
    config: LowLevelConfig, model: TrackingPPO, folder: Path, checkpoint_s: float, interrupted: threading.Event
) -> float:
    """Let the policy learn from the teacher, then leave it with the small noise that suits a trained policy.

    Every process saves its own state on the way (with the memory of 400,000 states: up to 235 MB), and at the end
    without the memory, so that PPO begins with the same bits wherever the run was broken.

    Args:
        config: The run.
        model: Its policy, robots and generators.
        folder: The run folder.
        checkpoint_s: Time between two saves [s].
        interrupted: Set on any process, all save and end after the present horizon.

    Returns:
        How long it took [s], in all its parts.

    Raises:
        KeyboardInterrupt: If interrupted on the way; at the very end that is left to PPO, which can save by then.
        UserError: If a broken imitation cannot go on: no state, a damaged one, or another number of processes.
    """
    said = checkpoint.read_json(folder / IMITATION_FILE) if (folder / IMITATION_FILE).is_file() else {}
    earlier, policy = float(str(said.get("seconds", 0.0))), model.policy.network
    recipe, teacher = DistillationConfig(steps=config.distill_steps), LowLevelPolicy.load(Path(str(config.teacher)))
    work = Distillation(policy, teacher, model.env, recipe, model.generator, precision=config.ppo.precision)
    if said:
        _restore(work, folder, said)
    if work.done >= recipe.steps:
        return earlier
    begin = saved = time.perf_counter()

    def save() -> None:
        nonlocal saved
        # The first rank's clock decides, since all ranks must save at the same step.
        late = distributed.from_first(time.perf_counter() - saved, model.device) > checkpoint_s
        asked = distributed.on_any(interrupted.is_set(), model.device)
        if (late or asked) and work.done < recipe.steps:
            saved = time.perf_counter()
            _save(work, folder, {"seconds": earlier + saved - begin})
            if asked:
                raise KeyboardInterrupt

    scores = work.run(save)
    policy.log_std.data.fill_(float(np.log(IMITATED_NOISE / config.task.absolute_scale)))
    seconds = earlier + time.perf_counter() - begin
    _save(work, folder, {"seconds": seconds, **scores}, memory=False)
    return seconds


def forget_imitation(folder: Path) -> None:
    """Delete this process's states of the imitation: PPO has a checkpoint, from which the run goes on."""
    _delete(folder, lambda _: True)


def _save(work: Distillation, folder: Path, facts: Mapping[str, float], *, memory: bool = True) -> None:
    """Write this process's state, then, once all have, the policy and what names the states; every rank must call it.

    States of before are deleted last: wherever this is broken off, the file that names them names whole ones.
    """
    mine = _state_file(folder, work.done)
    with atomic_file(mine) as file:
        torch.save(work.state(memory=memory), file)
    distributed.wait_for_all()
    if distributed.rank() == 0:
        work.student.save(folder)
        write_json(folder / IMITATION_FILE, {"steps": work.done, "processes": distributed.world_size(), **facts})
    distributed.wait_for_all()
    _delete(folder, lambda path: path != mine)


def _restore(work: Distillation, folder: Path, said: Mapping[str, object]) -> None:
    ranks, path = said.get("processes", 1), _state_file(folder, int(str(said["steps"])))
    if ranks != distributed.world_size():
        raise UserError(
            f"{folder} was trained by {ranks} process(es), not {distributed.world_size()}: give --processes {ranks}"
        )
    if not path.is_file():
        raise UserError(
            f"{folder} cannot be resumed: its imitation was broken off and left no {path.name}; another run can start "
            f"from its policy: --init {folder}"
        )
    try:
        work.restore(checkpoint.read_tensors(path))
    except (KeyError, RuntimeError, ValueError) as error:
        raise UserError(f"{path} does not fit this run: {error}") from error


def _state_file(folder: Path, steps: int) -> Path:
    return folder / f"imitation_{steps}_{distributed.rank()}.pt"


def _delete(folder: Path, chosen: Callable[[Path], bool]) -> None:
    for path in folder.glob(f"imitation_*_{distributed.rank()}.pt"):
        if chosen(path):
            path.unlink()
