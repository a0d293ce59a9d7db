"""From the flags of ``train_motion_vae`` to a trained run folder."""

import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch

from motionlex.data.clip import MotionClip
from motionlex.data.datasets import MotionData, load_dataset
from motionlex.data.errors import UserError, check_number, check_seed
from motionlex.data.kinematics import ForwardKinematics
from motionlex.data.robots import get_robot
from motionlex.data.segments import SegmentSource
from motionlex.data.storage import write_json
from motionlex.motion_vae import checkpoint, distributed
from motionlex.motion_vae.checkpoint import RunConfig
from motionlex.motion_vae.compilation import capture_samplers, compile_networks
from motionlex.motion_vae.contract import DiscreteAutoencoder
from motionlex.motion_vae.registry import PlainValue, domain_from_plain, domain_to_plain, get_preset, override, to_plain
from motionlex.motion_vae.run_loop import train_to
from motionlex.motion_vae.trainer import Trainer, TrainingState, resolve_device
from motionlex.motion_vae.trajectories.domain import TrajectoryDomain
from motionlex.motion_vae.validation import held_out_score

logger = logging.getLogger(__name__)
ROBOT = "h1"
VALIDATION_SEGMENTS = 512
"""Held-out segments of a validation while training."""
SMALLEST_VALIDATION_BATCH = 128
"""Segments at once: one code sequence each and no gradient take less memory than a training batch."""


@dataclass(frozen=True, kw_only=True)
class TrainFlags:
    """Train a discrete autoencoder of motion segments."""

    data: str = "builtin"
    """Data set: builtin, lafan1 or loco_mujoco."""
    data_root: Path | None = None
    """Folder of the data set; None reads the data set's environment variable."""
    method: str = "daps"
    """Method, e.g. daps or vqvae."""
    preset: str = "small"
    """Recipe: small (two CPU cores) or paper."""
    hz: float | None = None
    """Frame rate of the motion [1/s]; None takes that of the preset."""
    steps: int | None = None
    """Total steps to reach; None takes those of the preset (or of the run to resume)."""
    schedule_steps: int | None = None
    """Annealing horizon [steps], fixed when the run is created; None takes --steps."""
    seed: int = 0
    """Seed of the initial weights, the batches and the samples."""
    device: str = "cpu"
    """Torch device, e.g. cpu or cuda; under torchrun cuda is one GPU per process."""
    compile: bool = False
    """Compile the transformers for the shapes of this run (needs a C++ compiler, on CUDA Triton)."""
    cuda_graphs: bool = False
    """Capture sampling in a CUDA graph (CUDA only)."""
    resume: Path | None = None
    """Run folder to continue; only --steps, --device, --data-root, --compile, --cuda-graphs and --json go with it."""
    out: Path | None = None
    """New run folder; None makes runs/<data>_<method>_<preset>_<seed>."""
    set: tuple[str, ...] = ()
    """Changes to the preset, e.g. --set samples=4 width=96 batch=64."""
    checkpoint_steps: int = 500
    """Steps between two checkpoints."""
    json: bool = False
    """Print one JSON object as the last line of stdout."""


def train(flags: TrainFlags) -> dict[str, PlainValue]:
    """Create or continue a run and train it.

    Args:
        flags: What the user asked for.

    Returns:
        Keys run, steps, seconds, seconds_per_step, samples_per_s and the final training metrics by name.

    Raises:
        UserError: On any mistake of the user.
    """
    _check_numbers(flags)
    device = resolve_device(flags.device)
    with distributed.process_group(device):
        if flags.resume is not None:
            return _resume(flags, flags.resume, device)
        return _create(flags, device)


def load_source(config_data: str, root: Path | None, *, hz: float, frames: int) -> tuple[MotionData, SegmentSource]:
    """Load a data set and fit the statistics of its training split.

    Returns:
        The data, and the source of training segments.
    """
    data = load_dataset(config_data, root, hz=hz)
    if not data.train:
        raise UserError(f"data set {config_data!r} has no training clips")
    source = SegmentSource(data.train, None, kinematics=ForwardKinematics(get_robot(ROBOT)), frames=frames)
    source.fit()
    return data, source


def data_hash(clips: Iterable[MotionClip]) -> str:
    """Hash names and poses of clips (sha256, hexadecimal)."""
    digest = hashlib.sha256()
    for clip in clips:
        digest.update(f"{clip.name}:{clip.hz}:{clip.qpos.shape}".encode())
        digest.update(clip.qpos.tobytes())
        digest.update(b"" if clip.valid is None else clip.valid.tobytes())
    return digest.hexdigest()


def _create(flags: TrainFlags, device: torch.device) -> dict[str, PlainValue]:
    folder = flags.out or Path("runs") / f"{flags.data}_{flags.method}_{flags.preset}_{flags.seed}"
    if distributed.rank() == 0:  # the others may come when it exists already
        checkpoint.check_new(folder)
    preset = override(get_preset(flags.method, flags.preset), flags.set)
    optimisation = replace(
        preset.optimisation,
        steps=preset.optimisation.steps if flags.steps is None else flags.steps,
        hz=preset.optimisation.hz if flags.hz is None else flags.hz,
    )
    data, source = load_source(flags.data, flags.data_root, hz=optimisation.hz, frames=TrajectoryDomain().frames)
    likelihood = to_plain(preset.likelihood)
    domain = domain_from_plain(
        {"kind": TrajectoryDomain.kind, "features": source.statistics.size, "likelihood_config": likelihood}
    )
    config = RunConfig(
        method=flags.method,
        preset=flags.preset,
        method_config=to_plain(preset.method),
        optimisation=optimisation,
        domain=domain_to_plain(domain),
        schedule_steps=flags.schedule_steps or optimisation.steps,
        data=flags.data,
        data_root=None if flags.data_root is None else str(flags.data_root),
        seed=flags.seed,
    )
    trainer = _trainer(config, data, source, device, flags)
    meta = {**checkpoint.provenance(), "seed": config.seed, "data_hash": data_hash(data.train), "steps": 0}
    state = trainer.state()
    if distributed.rank() == 0:
        with checkpoint.NewRunFolder(folder) as partial:
            checkpoint.save_config(partial, config)
            _write(partial, trainer, source, meta, state)
    return _train(folder, trainer, source, config, meta, flags)


def _resume(flags: TrainFlags, folder: Path, device: torch.device) -> dict[str, PlainValue]:
    config = checkpoint.load_config(folder)
    checkpoint.check_complete(config, folder)
    _check_unchanged(flags, config)
    state = checkpoint.load_state(folder)
    meta = checkpoint.read_json(folder / checkpoint.META_FILE)
    root = flags.data_root or (None if config.data_root is None else Path(config.data_root))
    frames = domain_from_plain(config.domain).grid[0]
    data, source = load_source(config.data, root, hz=config.optimisation.hz, frames=frames)
    if data_hash(data.train) != meta["data_hash"]:
        raise UserError(f"the data differ from those of {folder}: a run is resumed on the data it began with")
    if flags.steps is not None:
        config = replace(config, optimisation=replace(config.optimisation, steps=flags.steps))
    trainer = _trainer(config, data, source, device, flags)
    trainer.load_state(state)
    if trainer.steps > config.optimisation.steps:
        raise UserError(f"{folder} is at step {trainer.steps} already; --steps is the total to reach")
    if distributed.rank() == 0:
        checkpoint.save_config(folder, config)
    return _train(folder, trainer, source, config, meta, flags)


def _trainer(
    config: RunConfig, data: MotionData, source: SegmentSource, device: torch.device, flags: TrainFlags
) -> Trainer:
    model = config.build().to(device)
    trainer = Trainer(
        model,
        source,
        config.optimisation,
        schedule_steps=config.schedule_steps,
        seed=config.seed,
        device=device,
        validate=_validation(model, config, data, source),
    )
    if flags.compile:
        compile_networks(model, device)
    if flags.cuda_graphs:
        capture_samplers(model, device)
    return trainer


def _validation(
    model: DiscreteAutoencoder, config: RunConfig, data: MotionData, source: SegmentSource
) -> Callable[[], float] | None:
    """Score on held-out segments, if the configuration asks for it."""
    if not config.optimisation.validation_steps:
        return None
    if not data.validation:
        raise UserError(f"validation_steps needs held-out clips, and data set {config.data!r} has none")
    held_out = SegmentSource(
        data.validation, source.statistics, kinematics=ForwardKinematics(get_robot(ROBOT)), frames=source.frames
    )
    x = held_out.sample(VALIDATION_SEGMENTS, torch.Generator().manual_seed(config.seed))
    return held_out_score(model, x, batch=max(config.optimisation.batch, SMALLEST_VALIDATION_BATCH), seed=config.seed)


def _train(
    folder: Path,
    trainer: Trainer,
    source: SegmentSource,
    config: RunConfig,
    meta: Mapping[str, PlainValue],
    flags: TrainFlags,
) -> dict[str, PlainValue]:
    ranks = distributed.world_size()
    if distributed.rank() == 0:
        size = sum(parameter.numel() for parameter in trainer.model.parameters())
        logger.info(
            f"{folder}: {config.method}, {size:,} parameters, {len(source.starts):,} segments, step {trainer.steps}"
            + (f", {ranks} ranks" if ranks > 1 else "")
        )
    return train_to(
        folder,
        trainer,
        steps=config.optimisation.steps,
        save=lambda current: _save(folder, current, source, meta),
        checkpoint_steps=flags.checkpoint_steps,
    )


def _save(folder: Path, trainer: Trainer, source: SegmentSource, meta: Mapping[str, PlainValue]) -> None:
    """Collect the state of all ranks and write a checkpoint on the first."""
    state = trainer.state()
    if distributed.rank() == 0:
        _write(folder, trainer, source, meta, state)


def _write(
    folder: Path, trainer: Trainer, source: SegmentSource, meta: Mapping[str, PlainValue], state: TrainingState
) -> None:
    """Write a checkpoint; the training state goes last, since a resume depends on it alone."""
    checkpoint.save_weights(folder, trainer.model, source.statistics)
    write_json(folder / checkpoint.META_FILE, {**meta, "steps": trainer.steps, "seconds": trainer.seconds})
    checkpoint.save_state(folder, state)


def _check_numbers(flags: TrainFlags) -> None:
    for name in ("hz", "steps", "schedule_steps", "checkpoint_steps"):
        check_number(f"--{name.replace('_', '-')}", getattr(flags, name), above=0)
    check_seed(flags.seed)


def _check_unchanged(flags: TrainFlags, config: RunConfig) -> None:
    """Refuse flags that contradict the run that is resumed."""
    saved = {
        "data": config.data,
        "method": config.method,
        "preset": config.preset,
        "hz": config.optimisation.hz,
        "seed": config.seed,
        "schedule_steps": config.schedule_steps,
        "out": None,
        "set": (),
    }
    defaults = {field.name: field.default for field in fields(TrainFlags)}
    for name, value in saved.items():
        given = getattr(flags, name)
        if given not in (defaults[name], value):
            raise UserError(f"--{name.replace('_', '-')} is fixed when a run is created ({value!r}), got {given!r}")
