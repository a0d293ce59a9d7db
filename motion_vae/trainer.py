"""One training loop for every method; its whole state can be saved and restored bit for bit."""

import logging
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch

from motionlex.data.errors import UserError
from motionlex.motion_vae.contract import BatchSource, DiscreteAutoencoder, LossTerms, OptimisationConfig
from motionlex.motion_vae.optimisation import build_optimisers

logger = logging.getLogger(__name__)
TrainingState = dict[str, object]
LOG_SECONDS = 5.0
"""Time between two lines of progress [s]."""
WINDOW_STEPS = 50
"""Steps over which logged values are averaged."""


@runtime_checkable
class ScalarWriter(Protocol):
    """The part of TensorBoard's SummaryWriter that the trainer uses."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        """Record one value."""


class Trainer:
    """Holds the model, its optimisers and generators; ``step`` advances all of them by one batch."""

    def __init__(
        self,
        model: DiscreteAutoencoder,
        sampler: BatchSource,
        config: OptimisationConfig,
        *,
        schedule_steps: int,
        seed: int,
        device: torch.device,
    ) -> None:
        self.model, self.sampler, self.config, self.device = model.to(device), sampler, config, device
        self.schedule_steps = schedule_steps
        self.optimisers = build_optimisers(self.model, config)
        self.data_generator = torch.Generator().manual_seed(seed)
        self.model_generator = torch.Generator(device=device).manual_seed(seed + 1)
        self.steps, self.seconds = 0, 0.0
        self.window: dict[str, list[float]] = {}

    def step(self) -> LossTerms:
        """Train on one batch.

        Raises:
            NonFiniteLossError: If the loss is NaN or infinite; the weights are still those before the step.
        """
        batch = self.sampler.sample(self.config.batch, self.data_generator).to(self.device)
        progress = self.steps / self.schedule_steps
        for terms in self.model.objectives(batch, self.model_generator, progress=progress):
            if not math.isfinite(terms.total.item()):
                raise NonFiniteLossError(self.steps, batch, {name: value.item() for name, value in terms.terms.items()})
            terms.total.backward()
            for optimiser in self.optimisers:
                optimiser.update(progress)
            self.model.after_update()
        self.steps += 1
        return terms

    def run(
        self,
        steps: int,
        *,
        save: Callable[["Trainer"], None],
        checkpoint_steps: int,
        writer: ScalarWriter | None = None,
    ) -> dict[str, float]:
        """Train until ``steps`` in total, saving every ``checkpoint_steps``, at the end, and when interrupted.

        Args:
            steps: Total steps to reach.
            save: Writes a checkpoint.
            checkpoint_steps: Steps between checkpoints.
            writer: Receives the averages of every window.

        Returns:
            Averages over the last window, by name.
        """
        self.model.train()
        first, started, previous = self.steps, time.monotonic(), self.seconds
        last_line = started
        try:
            while self.steps < steps:
                self._record(self.step())
                now = time.monotonic()
                self.seconds = previous + now - started
                if writer is not None and self.steps % WINDOW_STEPS == 0:
                    write_scalars(writer, self.averages(), self.steps)
                if now - last_line >= LOG_SECONDS or self.steps == steps:
                    logger.info(self._progress(steps, (now - started) / (self.steps - first)))
                    last_line = now
                if self.steps % checkpoint_steps == 0 and self.steps < steps:
                    save(self)
        except KeyboardInterrupt:
            save(self)
            raise
        save(self)
        return self.averages()

    def averages(self) -> dict[str, float]:
        """Averages of the logged values over the last window."""
        return {name: sum(values) / len(values) for name, values in self.window.items()}

    def state(self) -> TrainingState:
        """Everything that the next step depends on."""
        return {
            "model": self.model.state_dict(),
            "optimisers": {optimiser.name: optimiser.rule.state_dict() for optimiser in self.optimisers},
            "data_generator": self.data_generator.get_state(),
            "model_generator": self.model_generator.get_state(),
            "steps": self.steps,
            "seconds": self.seconds,
            "window": self.window,
        }

    def load_state(self, state: Mapping[str, object]) -> None:
        """Continue exactly where :meth:`state` was taken."""
        self.model.load_state_dict(state["model"])
        for optimiser in self.optimisers:
            optimiser.rule.load_state_dict(state["optimisers"][optimiser.name])
        self.data_generator.set_state(state["data_generator"])
        self.model_generator.set_state(state["model_generator"])
        self.steps, self.seconds = state["steps"], state["seconds"]
        self.window = {name: list(values) for name, values in state["window"].items()}

    def _record(self, terms: LossTerms) -> None:
        named = {f"loss_{name}": value for name, value in terms.terms.items()}
        for name, value in {"loss": terms.total.detach(), **named, **terms.metrics}.items():
            self.window.setdefault(name, []).append(value.item())
            del self.window[name][:-WINDOW_STEPS]

    def _progress(self, steps: int, seconds_per_step: float) -> str:
        left = time.strftime("%H:%M:%S", time.gmtime(seconds_per_step * (steps - self.steps)))
        shown = {name: value for name, value in self.averages().items() if not name.startswith("loss_")}
        values = "  ".join(f"{name} {value:.4g}" for name, value in shown.items())
        return f"step {self.steps}/{steps}  {seconds_per_step:.3f} s/step  left {left}  {values}"


class NonFiniteLossError(UserError):
    """The loss became NaN or infinite."""

    def __init__(self, steps: int, batch: torch.Tensor, terms: Mapping[str, float]) -> None:
        self.steps, self.batch, self.terms = steps, batch, terms
        listed = ", ".join(f"{name}={value:.4g}" for name, value in terms.items())
        super().__init__(f"the loss is not finite at step {steps} ({listed}); try a lower learning rate")

    def dumped(self, path: Path) -> UserError:
        """The same error, naming the file that holds the batch."""
        return UserError(f"{self}; the batch is in {path}")


def resolve_device(name: str) -> torch.device:
    """Check that a device exists and works.

    Raises:
        UserError: If it does not.
    """
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # also refuses devices that only pretend, such as meta
    except (RuntimeError, AssertionError, NotImplementedError, ValueError) as error:
        cuda = f"cpu, cuda (0 to {torch.cuda.device_count() - 1})" if torch.cuda.is_available() else "cpu"
        raise UserError(f"device {name!r} cannot be used. Available: {cuda}") from error
    return device


def write_scalars(writer: ScalarWriter, values: Mapping[str, float], step: int) -> None:
    """Log values under ``train/``."""
    for name, value in values.items():
        writer.add_scalar(f"train/{name}", value, step)
