"""Training a run folder: TensorBoard, checkpoints, and the batch that broke the arithmetic."""

from collections.abc import Callable
from pathlib import Path

import torch

from motionlex.motion_vae import distributed
from motionlex.motion_vae.allocation import keep_freed_memory
from motionlex.motion_vae.registry import PlainValue
from motionlex.motion_vae.trainer import NonFiniteLossError, Trainer


def train_to(
    folder: Path, trainer: Trainer, *, steps: int, save: Callable[[Trainer], None], checkpoint_steps: int
) -> dict[str, PlainValue]:
    """Train until ``steps`` in total.

    Args:
        folder: The run, which gets the logs.
        trainer: In the state that the run is in.
        steps: Total steps to reach.
        save: Writes a checkpoint, see :meth:`Trainer.run`.
        checkpoint_steps: Steps between checkpoints.

    Returns:
        Keys run, steps, seconds, seconds_per_step, samples_per_s, ranks, and the final training metrics by name.

    Raises:
        UserError: If loss or gradient is not finite; names the file that holds the batch.
    """
    keep_freed_memory(trainer.device)
    first, seconds, batch = trainer.steps, trainer.seconds, trainer.config.batch
    writer = None
    if distributed.rank() == 0:
        from torch.utils.tensorboard import SummaryWriter  # slow to import, wanted only here

        writer = SummaryWriter(str(folder / "tensorboard"), purge_step=first + 1)
    try:
        metrics = trainer.run(steps, save=save, checkpoint_steps=checkpoint_steps, writer=writer)
    except NonFiniteLossError as error:
        if distributed.rank() != 0:
            raise
        path = folder / f"non_finite_batch_step_{error.steps}.pt"
        torch.save({"batch": error.batch.cpu(), "terms": error.terms, "steps": error.steps}, path)
        raise error.dumped(path) from error
    finally:
        if writer is not None:
            writer.close()
    done, taken = trainer.steps - first, trainer.seconds - seconds
    return {
        "run": str(folder),
        "steps": trainer.steps,
        "seconds": trainer.seconds,
        "seconds_per_step": taken / max(done, 1),
        "samples_per_s": batch * done / taken if taken > 0.0 else 0.0,
        "ranks": distributed.world_size(),
        **metrics,
    }
