"""From the flags of ``motionlex train-highlevel`` to a trained run folder."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from motionlex.controllers.latent_data import Corruption
from motionlex.controllers.latent_training import (
    LatentExamples,
    LatentTask,
    LatentTrainer,
    OptimiserConfig,
    build_policy,
    evaluate_policy,
    prepare_examples,
)
from motionlex.data.errors import UserError, check_number, check_seed
from motionlex.data.storage import file_sha256
from motionlex.motion_vae import checkpoint
from motionlex.motion_vae.checkpoint import TrainedAutoencoder, load_run
from motionlex.motion_vae.interruption import postponed_interrupt
from motionlex.motion_vae.registry import PlainValue, to_plain

logger = logging.getLogger(__name__)
LOG_SECONDS = 5.0
"""Time between two lines of progress [s]."""
LOG_STEPS = 20
"""Steps between two logged losses."""


@dataclass(frozen=True, kw_only=True)
class HighLevelFlags:
    """Distil the codes of an autoencoder into a policy that chooses them from text and history."""

    vae: Path | None = None
    """Run folder of train_motion_vae whose codes are to be chosen."""
    data: str = "builtin"
    """Data set with action labels: builtin or lafan1."""
    data_root: Path | None = None
    """Folder of the data set; None reads the data set's environment variable."""
    steps: int | None = None
    """Total steps to reach; None means 5000 (or the schedule of the run to resume)."""
    schedule_steps: int | None = None
    """Steps of the learning-rate schedule, fixed when the run is created; None takes --steps."""
    batch: int = 64
    """Segments per step."""
    samples: int = 4
    """Code samples per segment."""
    max_segments: int = 20000
    """Segments encoded at most; longer data are thinned."""
    width: int = 128
    """Width of the policy."""
    layers: int = 3
    """Transformer blocks of the policy."""
    words: int = 4
    """Tokens of the policy's memory that are drawn from the word pieces; 0 shows it the sentence vector alone."""
    text_encoder: str | None = None
    """Folder or local hub id of a BERT (safetensors); None takes the packaged all-MiniLM-L6-v2."""
    seed: int = 0
    """Seed of weights, codes, batches and corruption."""
    resume: Path | None = None
    """Run folder to continue; only --steps, --data-root and --json may be given with it."""
    out: Path | None = None
    """New run folder; None makes runs/<data>_highlevel_<seed>."""
    checkpoint_steps: int = 500
    """Steps between two checkpoints."""
    json: bool = False
    """Print one JSON object as the last line of stdout."""


@dataclass(frozen=True, kw_only=True)
class HighLevelConfig:
    """Contents of config.json."""

    task: LatentTask
    """Data, autoencoder and shape."""
    optimiser: OptimiserConfig
    """How the policy is fitted."""
    corruption: Corruption
    """How conditions are withheld and disturbed."""
    vae_sha256: str
    """Digest of the autoencoder's weights."""


def train_high_level(flags: HighLevelFlags) -> dict[str, PlainValue]:
    """Create or continue a run and train it.

    Returns:
        Keys run, steps, seconds, seconds_per_step, and the final metrics by name.

    Raises:
        UserError: On any mistake of the user.
    """
    for name in ("steps", "schedule_steps", "batch", "samples", "max_segments", "layers", "checkpoint_steps"):
        check_number(f"--{name.replace('_', '-')}", getattr(flags, name), above=0)
    check_number("--words", flags.words, at_least=0)
    check_seed(flags.seed)
    if flags.resume is not None:
        return _resume(flags, flags.resume)
    return _create(flags)


def _create(flags: HighLevelFlags) -> dict[str, PlainValue]:
    if flags.vae is None:
        raise UserError("--vae is needed: a run folder of train_motion_vae")
    folder = flags.out or Path("runs") / f"{flags.data}_highlevel_{flags.seed}"
    checkpoint.check_new(folder)
    autoencoder = load_run(flags.vae)
    steps = flags.steps or 5000
    config = HighLevelConfig(
        task=LatentTask(
            vae=str(flags.vae),
            data=flags.data,
            data_root=None if flags.data_root is None else str(flags.data_root),
            schedule_steps=flags.schedule_steps or steps,
            seed=flags.seed,
            samples=flags.samples,
            max_segments=flags.max_segments,
            width=flags.width,
            layers=flags.layers,
            words=flags.words,
            text_encoder=flags.text_encoder,
        ),
        optimiser=OptimiserConfig(batch=flags.batch),
        corruption=Corruption(),
        vae_sha256=file_sha256(flags.vae / checkpoint.WEIGHTS_FILE),
    )
    build_policy(config.task, autoencoder)  # a wrong width is found before the data are encoded
    examples = prepare_examples(config.task, autoencoder)
    trainer = _trainer(config, autoencoder, examples)
    meta = {**checkpoint.provenance(), "seed": flags.seed, "hz": float(autoencoder.statistics.hz)}
    meta["labels"] = list(examples.train.timeline.labels)
    meta["text_sha256"] = examples.text_sha256
    with checkpoint.NewRunFolder(folder) as partial:
        checkpoint.write_json(partial / checkpoint.CONFIG_FILE, to_plain(config))
        _save(partial, trainer, meta)
    return _train(folder, trainer, examples, meta, steps, flags.checkpoint_steps, seconds_before=0.0)


def _resume(flags: HighLevelFlags, folder: Path) -> dict[str, PlainValue]:
    config = load_high_level_config(folder)
    checkpoint.check_complete(config, folder)
    _check_unchanged(flags, config)
    state = checkpoint.load_state(folder)
    meta = checkpoint.read_json(folder / checkpoint.META_FILE)
    vae = Path(config.task.vae)
    autoencoder = load_run(vae)
    if file_sha256(vae / checkpoint.WEIGHTS_FILE) != config.vae_sha256:
        raise UserError(f"the autoencoder {vae} has changed since {folder} was created: its codes are others now")
    task = config.task
    if flags.data_root is not None:
        task = LatentTask(**{**vars(task), "data_root": str(flags.data_root)})
    examples = prepare_examples(task, autoencoder)
    if meta.get("text_sha256", examples.text_sha256) != examples.text_sha256:
        raise UserError(f"the text encoder of {folder} has changed since it was created: its vectors are others now")
    trainer = _trainer(config, autoencoder, examples)
    trainer.restore(state)
    steps = flags.steps or config.task.schedule_steps
    if trainer.step > steps:
        raise UserError(f"{folder} is at step {trainer.step} already; --steps is the total to reach")
    seconds = meta.get("seconds", 0.0)
    assert isinstance(seconds, (int, float))
    return _train(folder, trainer, examples, meta, steps, flags.checkpoint_steps, seconds_before=float(seconds))


def load_high_level_config(folder: Path) -> HighLevelConfig:
    """Read config.json of a run.

    Raises:
        UserError: If the folder is not a run of train-highlevel.
    """
    path = folder / checkpoint.CONFIG_FILE
    if not path.is_file():
        raise UserError(f"{folder} is not a run of motionlex train-highlevel: it has no {checkpoint.CONFIG_FILE}")
    return checkpoint.read_config(HighLevelConfig, checkpoint.read_json(path), folder, "motionlex train-highlevel")


def _trainer(config: HighLevelConfig, autoencoder: TrainedAutoencoder, examples: LatentExamples) -> LatentTrainer:
    return LatentTrainer(
        build_policy(config.task, autoencoder),
        examples.train,
        examples.train_captions,
        schedule_steps=config.task.schedule_steps,
        seed=config.task.seed,
        optimiser=config.optimiser,
        corruption=config.corruption,
    )


def _train(
    folder: Path,
    trainer: LatentTrainer,
    examples: LatentExamples,
    meta: Mapping[str, PlainValue],
    steps: int,
    checkpoint_steps: int,
    *,
    seconds_before: float,
) -> dict[str, PlainValue]:
    """Train to ``steps``, saving on the way, at the end, and between two steps when interrupted."""
    from torch.utils.tensorboard import SummaryWriter  # slow to import, wanted only here

    first, began, last_line = trainer.step, time.monotonic(), time.monotonic()
    elapsed, losses = 0.0, [float("nan")]
    writer = SummaryWriter(str(folder / "tensorboard"), purge_step=first + 1)
    try:
        with postponed_interrupt() as interrupted:
            while trainer.step < steps and not interrupted.is_set():
                losses = [*losses[-49:], trainer.advance()]
                now = time.monotonic()
                elapsed = now - began
                if trainer.step % LOG_STEPS == 0:
                    writer.add_scalar("train/loss_nats_per_token", losses[-1], trainer.step)
                if now - last_line >= LOG_SECONDS or trainer.step == steps:
                    last_line = now
                    logger.info(_progress(trainer.step, steps, elapsed / (trainer.step - first), losses))
                if trainer.step % checkpoint_steps == 0 and trainer.step < steps:
                    _save(folder, trainer, {**meta, "seconds": seconds_before + elapsed})
            _save(folder, trainer, {**meta, "seconds": seconds_before + elapsed})
        if interrupted.is_set():
            raise KeyboardInterrupt
        metrics = _evaluate(trainer, examples)
        for name, value in metrics.items():
            writer.add_scalar(f"validation/{name}", value, trainer.step)
    finally:
        writer.close()
    _save(folder, trainer, {**meta, "seconds": seconds_before + elapsed, "metrics": metrics})
    return {
        "run": str(folder),
        "steps": trainer.step,
        "seconds": seconds_before + elapsed,
        "seconds_per_step": elapsed / max(trainer.step - first, 1),
        "loss_nats_per_token": sum(losses[1:]) / max(len(losses) - 1, 1),
        **metrics,
    }


def _progress(step: int, steps: int, seconds_per_step: float, losses: list[float]) -> str:
    left = time.strftime("%H:%M:%S", time.gmtime(seconds_per_step * (steps - step)))
    mean = sum(losses[1:]) / max(len(losses) - 1, 1)
    return f"step {step}/{steps}  {seconds_per_step:.3f} s/step  left {left}  loss {mean:.4f} nats/token"


def _evaluate(trainer: LatentTrainer, examples: LatentExamples) -> dict[str, float]:
    if examples.validation is None:
        return {}
    return evaluate_policy(
        trainer.averaged_policy(), examples.validation, examples.validation_captions, seed=trainer.step
    )


def _save(folder: Path, trainer: LatentTrainer, meta: Mapping[str, PlainValue]) -> None:
    """Write a checkpoint; the training state goes last, since a resume depends on it alone."""
    trainer.averaged_policy().save(folder)
    checkpoint.write_json(folder / checkpoint.META_FILE, {**meta, "steps": trainer.step})
    checkpoint.save_state(folder, trainer.state())


def _check_unchanged(flags: HighLevelFlags, config: HighLevelConfig) -> None:
    """Refuse flags that contradict the run that is resumed."""
    task = config.task
    saved = {
        "vae": Path(task.vae),
        "data": task.data,
        "schedule_steps": task.schedule_steps,
        "samples": task.samples,
        "max_segments": task.max_segments,
        "width": task.width,
        "layers": task.layers,
        "words": task.words,
        "text_encoder": task.text_encoder,
        "seed": task.seed,
        "batch": config.optimiser.batch,
        "out": None,
    }
    defaults = {field.name: field.default for field in fields(HighLevelFlags)}
    for name, value in saved.items():
        given = getattr(flags, name)
        if given not in (defaults[name], value):
            raise UserError(f"--{name.replace('_', '-')} is fixed when a run is created ({value}), got {given}")
