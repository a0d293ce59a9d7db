"""One training loop for every method; its whole state can be saved and restored bit for bit.

A batch is cut twice. Under torchrun every rank draws the whole batch and keeps its own rows; each rank then cuts its
rows into micro-batches, whose gradients add up. Gradients are means over all of these parts, so a loss that is a mean
over examples trains the same whatever the cut. Statistics inside a loss (the effective sample size of the temperature,
batch-mean posteriors) are means over ranks but of one micro-batch at a time, so there the cut into micro-batches shows.
"""

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from motionlex.data.errors import UserError
from motionlex.motion_vae import distributed
from motionlex.motion_vae.contract import BatchSource, DiscreteAutoencoder, LossTerms, OptimisationConfig
from motionlex.motion_vae.interruption import postponed_interrupt
from motionlex.motion_vae.optimisation import Plateau, build_optimisers
from motionlex.motion_vae.precision import arithmetic, check_precision, float32_arithmetic

logger = logging.getLogger(__name__)
TrainingState = dict[str, object]
LOG_SECONDS = 5.0
"""Time between two lines of progress [s]."""
WINDOW_STEPS = 50
"""Steps over which logged values are averaged."""
VALIDATION = "validation_score_nats"
"""Name of the validation score among the logged values."""
GRADIENT_NORM = "gradient_norm"
"""Name of the norm of the gradient among the terms of an error."""


@runtime_checkable
class ScalarWriter(Protocol):
    """The part of TensorBoard's SummaryWriter that the trainer uses."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        """Record one value."""


class Trainer:
    """Holds the model, its optimisers and generators; ``step`` advances all of them by one batch.

    Args:
        model: What is trained; its initial weights are the same on every rank.
        sampler: Gives batches.
        config: How it is trained.
        schedule_steps: Annealing horizon.
        seed: Of the batches (the same on every rank) and of the samples (rank r adds r).
        device: Where the model runs.
        validate: Held-out score, higher is better, asked for every ``config.validation_steps``.

    Raises:
        UserError: If ranks and micro-batches do not divide the batch, or the device lacks the precision.
    """

    def __init__(
        self,
        model: DiscreteAutoencoder,
        sampler: BatchSource,
        config: OptimisationConfig,
        *,
        schedule_steps: int,
        seed: int,
        device: torch.device,
        validate: Callable[[], float] | None = None,
    ) -> None:
        parts = distributed.world_size() * config.micro_batches
        if config.batch % parts:
            raise UserError(
                f"batch={config.batch} cannot be cut into {distributed.world_size()} ranks x "
                f"{config.micro_batches} micro_batches: take a multiple of {parts}"
            )
        check_precision(config.precision, device)
        self.model, self.sampler, self.config, self.device = model.to(device), sampler, config, device
        self.schedule_steps, self.validate = schedule_steps, validate
        self.optimisers = build_optimisers(self.model, config)
        self.plateau = Plateau(config.plateau_factor or 1.0, config.plateau_patience)
        self.data_generator = torch.Generator().manual_seed(seed)
        self.model_generator = torch.Generator(device=device).manual_seed(seed + 1 + distributed.rank())
        self.steps, self.seconds = 0, 0.0
        self.window: dict[str, list[float]] = {}

    def step(self) -> dict[str, float]:
        """Train on one batch.

        Returns:
            Loss, its terms and the metrics, averaged over micro-batches and ranks; of the last objective that has them.

        Raises:
            NonFiniteLossError: If loss or gradient is NaN or infinite; the update is left out, on every rank.
        """
        batch = self.sampler.sample(self.config.batch, self.data_generator)
        rows = transferred(distributed.own_rows(batch), self.device)
        progress = self.steps / self.schedule_steps
        parts = [
            self.model.objectives(part, self.model_generator, progress=progress)
            for part in rows.chunk(self.config.micro_batches)
        ]
        values: dict[str, float] = {}
        while found := [terms for part in parts if (terms := self._backward(part)) is not None]:
            assert len(found) == len(parts), "micro-batches of one batch must have the same number of objectives"
            distributed.average_gradients(self.model.parameters())
            logged, gradient_norm = self._averaged(found, self._gradient_norm())
            if not math.isfinite(logged["loss"]) or not math.isfinite(gradient_norm):
                self._clear_gradients()
                raise NonFiniteLossError(self.steps, batch, logged | {GRADIENT_NORM: gradient_norm})
            self._update(progress)
            values |= logged
        self.steps += 1
        if self.validate is not None and self.config.validation_steps:
            values |= self._validated(self.validate)
        return values

    def run(
        self,
        steps: int,
        *,
        save: Callable[["Trainer"], None],
        checkpoint_steps: int,
        writer: ScalarWriter | None = None,
    ) -> dict[str, float]:
        """Train until ``steps`` in total, saving every ``checkpoint_steps``, at the end, and when interrupted.

        An interrupt (Ctrl-C, SIGTERM) lets the running step end first, since half a step cannot be continued exactly; a
        second Ctrl-C does not wait, and leaves the last checkpoint.

        Args:
            steps: Total steps to reach.
            save: Writes a checkpoint. It is called on every rank, since :meth:`state` collects from all of them; an
                interrupt finds ranks at different points, and then several ranks keep their last checkpoint.
            checkpoint_steps: Steps between checkpoints.
            writer: Receives the averages of every window.

        Returns:
            Averages over the last window, by name.

        Raises:
            KeyboardInterrupt: If interrupted.
        """
        self.model.train()
        first, started, previous = self.steps, time.monotonic(), self.seconds
        last_line = started
        with postponed_interrupt(enabled=distributed.world_size() == 1) as interrupted:
            while self.steps < steps and not interrupted.is_set():
                self._record(self.step())
                now = time.monotonic()
                self.seconds = previous + now - started
                if writer is not None and self.steps % WINDOW_STEPS == 0:
                    write_scalars(writer, self.averages(), self.steps)
                if distributed.rank() == 0 and (now - last_line >= LOG_SECONDS or self.steps == steps):
                    logger.info(self._progress(steps, (now - started) / (self.steps - first)))
                    last_line = now
                if self.steps % checkpoint_steps == 0 and self.steps < steps:
                    save(self)
            save(self)
        if interrupted.is_set():
            raise KeyboardInterrupt
        return self.averages()

    def averages(self) -> dict[str, float]:
        """Averages of the logged values over the last window."""
        return {name: sum(values) / len(values) for name, values in self.window.items()}

    def state(self) -> TrainingState:
        """Everything that the next step depends on; every rank must call it."""
        return {
            "model": self.model.state_dict(),
            "optimisers": {optimiser.name: optimiser.rule.state_dict() for optimiser in self.optimisers},
            "plateau": self.plateau.state(),
            "data_generator": self.data_generator.get_state(),
            "model_generators": distributed.gather(self.model_generator.get_state()),
            "steps": self.steps,
            "seconds": self.seconds,
            "window": self.window,
        }

    def load_state(self, state: Mapping[str, object]) -> None:
        """Continue exactly where :meth:`state` was taken.

        Raises:
            UserError: If it was taken with another number of ranks.
        """
        ranks = len(state["model_generators"])
        if ranks != distributed.world_size():
            raise UserError(
                f"the run was trained on {ranks} rank(s) and cannot be resumed on {distributed.world_size()}: "
                f"start it with torchrun --nproc-per-node {ranks}"
            )
        self.model.load_state_dict(state["model"])
        for optimiser in self.optimisers:
            optimiser.rule.load_state_dict(state["optimisers"][optimiser.name])
        self.plateau.load_state(state["plateau"])
        self.data_generator.set_state(state["data_generator"])
        self.model_generator.set_state(state["model_generators"][distributed.rank()])
        self.steps, self.seconds = state["steps"], state["seconds"]
        self.window = {name: list(values) for name, values in state["window"].items()}

    def _backward(self, objectives: Iterator[LossTerms]) -> LossTerms | None:
        """Evaluate the next objective of one micro-batch and add its share of the gradients; None after the last."""
        with arithmetic(self.config.precision, self.device):
            terms = next(objectives, None)
        if terms is not None:
            with float32_arithmetic(self.config.precision):
                (terms.total / self.config.micro_batches).backward()
        return terms

    def _gradient_norm(self) -> Tensor:
        """Norm of all gradients together, infinite also where its square overflows."""
        gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
        if not gradients:
            return torch.zeros((), device=self.device)
        return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))

    def _averaged(self, parts: list[LossTerms], gradient_norm: Tensor) -> tuple[dict[str, float], float]:
        """Average over micro-batches and ranks: one message between ranks, one wait for the device.

        Returns:
            Loss, terms and metrics by name, and the norm of the gradient, which has no name of its own in the log.
        """
        named = [
            {
                "loss": part.total.detach(),
                **{f"loss_{name}": value for name, value in part.terms.items()},
                **part.metrics,
            }
            for part in parts
        ]
        rows = [torch.stack([value.to(self.device, torch.float32) for value in values.values()]) for values in named]
        row = torch.cat([torch.stack(rows).mean(dim=0), gradient_norm.to(self.device, torch.float32).view(1)])
        *mean, norm = (distributed.synchronised_sum(row) / distributed.world_size()).tolist()
        return dict(zip(named[0], mean, strict=True)), norm

    def _update(self, progress: float) -> None:
        for optimiser in self.optimisers:
            optimiser.update(progress, self.plateau.scale)
        self.model.after_update()

    def _clear_gradients(self) -> None:
        for optimiser in self.optimisers:
            optimiser.rule.zero_grad(set_to_none=True)

    def _validated(self, validate: Callable[[], float]) -> dict[str, float]:
        """Score the model if it is time to; rank 0 does it for all."""
        if self.steps % self.config.validation_steps:
            return {}
        score = 0.0
        if distributed.rank() == 0:
            self.model.eval()
            with torch.no_grad(), arithmetic(self.config.precision, self.device):
                score = validate()
            self.model.train()
        score = distributed.from_first(score, self.device)
        if self.config.plateau_factor is not None:
            self.plateau.observe(score)
        return {VALIDATION: score}

    def _record(self, values: Mapping[str, float]) -> None:
        """Add to the window; names that the present objective no longer gives leave it."""
        self.window = {name: old for name, old in self.window.items() if name in values or name == VALIDATION}
        for name, value in values.items():
            self.window.setdefault(name, []).append(value)
            del self.window[name][: -1 if name == VALIDATION else -WINDOW_STEPS]

    def _progress(self, steps: int, seconds_per_step: float) -> str:
        left = timedelta(seconds=round(seconds_per_step * (steps - self.steps)))
        shown = {name: value for name, value in self.averages().items() if not name.startswith("loss_")}
        values = "  ".join(f"{name} {value:.4g}" for name, value in shown.items())
        speed = f"{seconds_per_step:.3f} s/step  {self.config.batch / seconds_per_step:.0f} samples/s"
        return f"step {self.steps}/{steps}  {speed}  left {left}  {values}"


class NonFiniteLossError(UserError):
    """The loss, or the gradient of a finite loss, became NaN or infinite."""

    def __init__(self, steps: int, batch: Tensor, terms: Mapping[str, float]) -> None:
        self.steps, self.batch, self.terms = steps, batch, terms
        listed = ", ".join(f"{name}={value:.4g}" for name, value in terms.items())
        culprit = "gradient" if math.isfinite(terms["loss"]) else "loss"
        super().__init__(f"the {culprit} is not finite at step {steps} ({listed}); try a lower learning rate")

    def dumped(self, path: Path) -> UserError:
        """The same error, naming the file that holds the batch."""
        return UserError(f"{self}; the batch is in {path}")


def resolve_device(name: str) -> torch.device:
    """Check that a device exists and works; under torchrun ``cuda`` is every rank's own.

    Raises:
        UserError: If it does not.
    """
    name = distributed.local_device(name)
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # also refuses devices that only pretend, such as meta
    except (RuntimeError, AssertionError, NotImplementedError, ValueError) as error:
        cuda = f"cpu, cuda (0 to {torch.cuda.device_count() - 1})" if torch.cuda.is_available() else "cpu"
        raise UserError(f"device {name!r} cannot be used. Available: {cuda}") from error
    return device


def transferred(x: Tensor, device: torch.device) -> Tensor:
    """Copy a batch to a device; to a GPU from pinned memory, so that the host need not wait."""
    if device.type == "cuda" and x.device.type == "cpu":
        return x.pin_memory().to(device, non_blocking=True)
    return x.to(device)


def write_scalars(writer: ScalarWriter, values: Mapping[str, float], step: int) -> None:
    """Log values under ``train/``, the validation score under ``validation/``."""
    for name, value in values.items():
        writer.add_scalar(name.replace("_", "/", 1) if name == VALIDATION else f"train/{name}", value, step)
