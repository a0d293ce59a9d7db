"""One image model, from its recipe to a trained run folder, by the trainer and the checkpoints of motion.

``FOLDER/`` holds config.json, preprocessing.json, weights.safetensors, meta.json, training_state.pt and TensorBoard
logs; a killed run continues exactly, order of the images included.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch

from motionlex.data.errors import UserError
from motionlex.data.images.collection import Images, split_off
from motionlex.data.images.dataset import ImageData
from motionlex.data.images.preprocessing import Preprocessing
from motionlex.data.images.source import ImageSource, in_order
from motionlex.data.storage import write_json
from motionlex.motion_vae import checkpoint
from motionlex.motion_vae.checkpoint import RunConfig
from motionlex.motion_vae.contract import DiscreteAutoencoder
from motionlex.motion_vae.images.domain import ImageDomain
from motionlex.motion_vae.images.recipes import Recipe, load_recipe_data, resolve, run_config
from motionlex.motion_vae.registry import PlainValue, from_plain, to_plain
from motionlex.motion_vae.run_loop import train_to
from motionlex.motion_vae.trainer import Trainer, resolve_device
from motionlex.motion_vae.validation import held_out_score

logger = logging.getLogger(__name__)
PREPROCESSING_FILE = "preprocessing.json"
CHECKPOINT_STEPS = 500
"""Steps between two checkpoints."""
VALIDATION_IMAGES = 512
"""Images of a validation while training; never of the test split."""
HELD_OUT_SHARE = 10
"""Where a set has no validation split, at most one in so many training images is held out for it."""


@dataclass(frozen=True, kw_only=True)
class TrainedImages:
    """A trained image model with what is needed to use it."""

    model: DiscreteAutoencoder
    """In evaluation mode, without gradients."""
    preprocessing: Preprocessing
    """Of the bytes."""
    config: RunConfig
    """How it was made."""
    meta: Mapping[str, PlainValue]
    """Provenance: commit, versions, data hash, steps."""


def train_recipe(recipe: Recipe, folder: Path, *, device: str = "cpu") -> dict[str, PlainValue]:
    """Create a run, or continue the one that is there, up to the recipe's steps.

    Args:
        recipe: What to train.
        folder: The run folder.
        device: Torch device.

    Returns:
        What :func:`motionlex.motion_vae.run_loop.train_to` gives.

    Raises:
        UserError: If the folder holds another run or other data, or the recipe does not fit the images.
    """
    data = load_recipe_data(recipe)
    preprocessing, config = resolve(recipe, data)
    train, held_out = _training_split(data, config)
    source = ImageSource(train, preprocessing, seed=recipe.seed)
    chosen = resolve_device(device)
    model = config.build().to(chosen)
    validate = None
    if held_out is not None:
        noise = torch.Generator().manual_seed(recipe.seed)
        batches = in_order(held_out, preprocessing, batch=VALIDATION_IMAGES, limit=VALIDATION_IMAGES, generator=noise)
        validate = held_out_score(model, next(batches)[0], batch=config.optimisation.batch, seed=recipe.seed)
    trainer = Trainer(
        model,
        source,
        config.optimisation,
        schedule_steps=config.schedule_steps,
        seed=recipe.seed,
        device=chosen,
        validate=validate,
    )
    if (folder / checkpoint.CONFIG_FILE).is_file():
        meta = _resume(folder, trainer, source, config)
    else:
        meta = {**checkpoint.provenance(), "seed": recipe.seed, "data_hash": train.digest(), "steps": 0}
        with checkpoint.NewRunFolder(folder) as partial:
            checkpoint.save_config(partial, config)
            write_json(partial / PREPROCESSING_FILE, to_plain(preprocessing))
            _save(partial, trainer, meta)
    size = sum(parameter.numel() for parameter in model.parameters())
    logger.info(f"{folder}: {recipe.method} on {data.title}, {size:,} parameters, step {trainer.steps}")
    return train_to(
        folder,
        trainer,
        steps=recipe.steps,
        save=lambda current: _save(folder, current, meta),
        checkpoint_steps=CHECKPOINT_STEPS,
    )


def load_image_run(folder: Path, device: str = "cpu") -> TrainedImages:
    """Load the weights of a run on images.

    Raises:
        UserError: If the folder is no such run, or its files are damaged.
    """
    config = checkpoint.load_config(folder)
    if config.domain["kind"] != ImageDomain.kind:
        raise UserError(f"{folder} encodes data of the kind {config.domain['kind']!r}, not images")
    values = checkpoint.read_json(folder / PREPROCESSING_FILE)
    return TrainedImages(
        model=checkpoint.load_model(folder, config, device)[0],
        preprocessing=cast("Preprocessing", from_plain(Preprocessing, values)),
        config=config,
        meta=checkpoint.read_json(folder / checkpoint.META_FILE),
    )


def _training_split(data: ImageData, config: RunConfig) -> tuple[Images, Images | None]:
    """Return what is trained on and, where the recipe validates while training, what for that."""
    if not config.optimisation.validation_steps:
        return data.train, None
    if data.validation is not None:
        return data.train, data.validation
    count = min(VALIDATION_IMAGES, len(data.train) // HELD_OUT_SHARE)
    return split_off(data.train, count, seed=0)


def check_recipe(recipe: Recipe, folder: Path) -> None:
    """Refuse a run of another recipe, such as one of before a setting was changed.

    Raises:
        UserError: If the folder holds one, or is damaged.
    """
    _check_same(run_config(recipe)[0], folder)


def _check_same(config: RunConfig, folder: Path) -> None:
    saved = checkpoint.load_config(folder)
    checkpoint.check_complete(saved, folder)
    if to_plain(replace(saved, data_root=None)) != _as_saved(replace(config, data_root=None)):
        raise UserError(f"{folder} holds a run of another recipe: give another --out")


def _resume(folder: Path, trainer: Trainer, source: ImageSource, config: RunConfig) -> dict[str, PlainValue]:
    """Bring trainer and source to where the run is."""
    _check_same(config, folder)
    meta = checkpoint.read_json(folder / checkpoint.META_FILE)
    if source.images.digest() != meta["data_hash"]:
        raise UserError(f"the images differ from those of {folder}: a run is resumed on the data it began with")
    trainer.load_state(checkpoint.load_state(folder))
    source.skip(trainer.steps * config.optimisation.batch)
    return meta


def _as_saved(config: RunConfig) -> dict[str, PlainValue]:
    """What :func:`to_plain` gives after a way through JSON, which has lists for tuples."""
    return to_plain(cast("RunConfig", from_plain(RunConfig, json.loads(json.dumps(to_plain(config))))))


def _save(folder: Path, trainer: Trainer, meta: Mapping[str, PlainValue]) -> None:
    """Write a checkpoint; the training state goes last, since a resume depends on it alone."""
    checkpoint.save_weights(folder, trainer.model, None)
    write_json(folder / checkpoint.META_FILE, {**meta, "steps": trainer.steps, "seconds": trainer.seconds})
    checkpoint.save_state(folder, trainer.state())
