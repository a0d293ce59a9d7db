"""Run folders: weights with the feature statistics inside, configuration, provenance and training state.

``runs/<name>/`` holds config.json (resolved), meta.json, weights.safetensors and training_state.pt. Every file is
written beside its target and renamed, and a new folder appears under its name only when it is complete.
"""

import contextlib
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
import safetensors
import safetensors.torch
import torch
from jaxtyping import Float, Int
from torch import Tensor

from motionlex.data.errors import UserError
from motionlex.data.features import FeatureStatistics
from motionlex.data.storage import write_bytes, write_json
from motionlex.motion_vae.contract import DiscreteAutoencoder, OptimisationConfig
from motionlex.motion_vae.registry import (
    PlainValue,
    build_model,
    domain_from_plain,
    from_plain,
    get_method,
    to_plain,
)

CONFIG_FILE, META_FILE, WEIGHTS_FILE, STATE_FILE = (
    "config.json",
    "meta.json",
    "weights.safetensors",
    "training_state.pt",
)
Config = typing.TypeVar("Config")
_STATISTICS = "statistics."
_MODEL = "model."


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that was decided when a run was created; saved as config.json."""

    method: str
    """Name in the registry."""
    preset: str
    """Recipe it started from."""
    method_config: Mapping[str, PlainValue]
    """Resolved fields of the method's configuration."""
    optimisation: OptimisationConfig
    """How it is trained; ``steps`` is the total last asked for."""
    domain: Mapping[str, PlainValue]
    """Kind of data and its resolved fields."""
    schedule_steps: int
    """Annealing horizon, fixed for the life of the run."""
    data: str
    """Name of the data set."""
    data_root: str | None
    """Folder of the data set, None for its environment variable."""
    seed: int
    """Seed of the initial weights, the batches and the samples."""

    def build(self) -> DiscreteAutoencoder:
        """Build the untrained model."""
        config = from_plain(get_method(self.method).config_class, self.method_config)
        return build_model(self.method, config, domain_from_plain(self.domain), seed=self.seed)


@dataclass(frozen=True, kw_only=True)
class TrainedAutoencoder:
    """A model with everything that is needed to use it on motion."""

    model: DiscreteAutoencoder
    """In evaluation mode, without gradients."""
    statistics: FeatureStatistics
    """Of the training split."""
    config: RunConfig
    """How it was made."""
    meta: Mapping[str, PlainValue]
    """Provenance: commit, versions, data hash, steps."""

    def require_codes(self) -> None:
        """Refuse a continuous relative where codes are needed.

        Raises:
            UserError: If the method has none.
        """
        if not self.model.discrete:
            raise UserError(f"method {self.config.method!r} has no codes: choose a discrete one")

    @torch.no_grad()
    def encode_features(
        self, features: Float[Tensor, "batch item feature"], generator: torch.Generator
    ) -> Int[Tensor, "batch token"]:
        """Draw the codes of standardised segments, e.g. (batch, 32, 121) -> (batch, 64)."""
        self.require_codes()
        indices = self.model.encode(features, generator).indices
        assert indices is not None
        return indices

    @torch.no_grad()
    def decode_features(self, indices: Int[Tensor, "batch token"]) -> Float[np.ndarray, "batch frame feature"]:
        """Decode codes to features in their own units and the full schema: (batch, 64) -> (batch, 32, 127)."""
        mean = self.model.decode_embeddings(self.model.embed(indices)).mean
        return np.asarray(self.statistics.destandardise(mean.cpu().double().numpy()))


def load_run(path: str | Path, device: str | torch.device = "cpu") -> TrainedAutoencoder:
    """Load the weights of a run for use.

    Args:
        path: The run folder.
        device: Where to put the model.

    Raises:
        UserError: If the folder is not a run, or its files are damaged or from another version.
    """
    folder = Path(path)
    config = load_config(folder)
    model, tensors = load_model(folder, config, device)
    statistics = FeatureStatistics.from_dict(
        {name.removeprefix(_STATISTICS): t.numpy() for name, t in tensors.items() if name.startswith(_STATISTICS)}
    )
    return TrainedAutoencoder(model=model, statistics=statistics, config=config, meta=read_json(folder / META_FILE))


def load_model(
    folder: Path, config: RunConfig, device: str | torch.device = "cpu"
) -> tuple[DiscreteAutoencoder, dict[str, Tensor]]:
    """Read weights.safetensors of a run on any kind of data.

    Returns:
        The model in evaluation mode, without gradients, and all tensors of the file.

    Raises:
        UserError: If the file is missing or damaged, or does not fit the configuration.
    """
    tensors = _read_weights(folder / WEIGHTS_FILE)
    model = config.build()
    state = {name.removeprefix(_MODEL): value for name, value in tensors.items() if name.startswith(_MODEL)}
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise UserError(f"weights in {folder} do not fit {CONFIG_FILE}: {error}") from error
    return model.to(device).eval().requires_grad_(False), tensors


def load_config(folder: Path) -> RunConfig:
    """Read config.json of a run.

    Raises:
        UserError: If the folder is not a run.
    """
    if not (folder / CONFIG_FILE).is_file():
        raise UserError(f"{folder} is not a run of train_motion_vae: it has no {CONFIG_FILE}")
    return read_config(RunConfig, read_json(folder / CONFIG_FILE), folder, "train_motion_vae")


def read_config(kind: type[Config], values: Mapping[str, PlainValue], folder: Path, command: str) -> Config:
    """Build the configuration of a run from its config.json.

    Args:
        kind: The configuration's dataclass.
        values: Contents of the file.
        folder: The run, for the message.
        command: What makes such runs, for the message.

    Raises:
        UserError: If another command made the run, or the file is damaged.
    """
    if not values:  # where every field has a default, nothing at all would pass for a run
        raise UserError(f"{folder} is not a run of {command}: its {CONFIG_FILE} is empty")
    try:
        return typing.cast("Config", from_plain(kind, values))
    except UserError as error:
        raise UserError(f"{folder} is not a run of {command}, or its {CONFIG_FILE} is damaged: {error}") from error


def check_complete(config: object, folder: Path) -> None:
    """Refuse to resume a run of an older version, whose config.json does not say how it was trained in every respect.

    Loading fills a missing setting with its default, which is harmless to use and wrong to train on with.

    Args:
        config: The run's configuration as it was loaded.
        folder: The run.

    Raises:
        UserError: If config.json lacks a setting; the message names those that are missing.
    """
    missing = _missing(to_plain(config), read_json(folder / CONFIG_FILE), "")
    if missing:
        raise UserError(
            f"{folder} cannot be resumed: it is of an older version, which knew no {', '.join(missing)}. "
            "Resume it with that version, or start anew (a run of train_lowlevel can start from it: --init)"
        )


def _missing(wanted: Mapping[str, PlainValue], got: Mapping[str, PlainValue], prefix: str) -> list[str]:
    names = [prefix + name for name in wanted if name not in got]
    for name, value in wanted.items():
        found = got.get(name)
        if isinstance(value, dict) and isinstance(found, dict):
            names += _missing(value, found, f"{prefix}{name}.")
    return names


def load_state(folder: Path) -> dict[str, object]:
    """Read the training state of a run.

    Raises:
        UserError: If it is missing or damaged.
    """
    if not (folder / STATE_FILE).is_file():
        raise UserError(f"{folder} cannot be resumed: it has no {STATE_FILE}")
    return read_tensors(folder / STATE_FILE)


def read_tensors(path: Path) -> dict[str, object]:
    """Read what ``torch.save`` wrote; nothing in it is executed.

    Raises:
        UserError: If the file cannot be read or is damaged.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, OSError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise UserError(f"{path} is damaged: {error}") from error


def save_weights(folder: Path, model: DiscreteAutoencoder, statistics: FeatureStatistics | None) -> None:
    """Write weights.safetensors: tensors ``model.*``, and ``statistics.*`` where the data are motion."""
    tensors = {_MODEL + name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    if statistics is not None:
        tensors |= {_STATISTICS + name: torch.from_numpy(np.array(a)) for name, a in statistics.to_dict().items()}
    write_bytes(folder / WEIGHTS_FILE, safetensors.torch.save(tensors, metadata={"format": "motionlex-vae-1"}))


def save_state(folder: Path, state: Mapping[str, object]) -> None:
    """Write the training state."""
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    write_bytes(folder / STATE_FILE, buffer.getvalue())


def save_config(folder: Path, config: RunConfig) -> None:
    """Write config.json."""
    write_json(folder / CONFIG_FILE, to_plain(config))


def read_json(path: Path) -> dict[str, PlainValue]:
    """Read one JSON object.

    Raises:
        UserError: If the file is missing or damaged.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing") from None
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} is damaged: it holds no JSON object")
    return values


class NewRunFolder:
    """Context in which a new run is written under a temporary name; renamed on success, removed on failure."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.missing: list[Path] = []
        self.partial = target.with_name(f".{target.name}.{os.getpid()}.partial")

    def __enter__(self) -> Path:
        """Make the temporary folder.

        Raises:
            UserError: If the run exists already.
        """
        check_new(self.target)
        self.missing = [parent for parent in self.partial.parents if not os.path.lexists(parent)]
        try:
            self.partial.mkdir(parents=True)
        except OSError as error:
            _remove_empty(self.missing)
            raise OSError(error.errno, f"cannot create the run folder: {error.strerror}", str(self.target)) from error
        return self.partial

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        """Rename or remove it."""
        try:
            if kind is None:
                self.partial.rename(self.target)
        finally:
            shutil.rmtree(self.partial, ignore_errors=True)
            _remove_empty(self.missing)  # also the folders that were made for it; with the run inside they stay


def _remove_empty(folders: Iterable[Path]) -> None:
    """Remove folders that are empty, innermost first."""
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


def check_new(folder: Path) -> None:
    """Refuse a run folder that exists or cannot be made, before data are loaded for it.

    Raises:
        UserError: If so.
    """
    if folder.exists():
        raise UserError(
            f"run folder {folder} already exists: continue it with --resume {folder}, or give another --out"
        )
    above = next(parent for parent in folder.absolute().parents if os.path.lexists(parent))
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        why = "is read-only" if above.is_dir() else "is no folder"
        raise UserError(f"run folder {folder} cannot be made: {above} {why}; give another --out")


def provenance() -> dict[str, PlainValue]:
    """Commit of the source (None outside a repository), command and versions."""
    return {
        "commit": _commit(),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "versions": {"python": sys.version.split()[0]}
        | {name: _version(name) for name in ("motionlex", "torch", "numpy", "mujoco", "safetensors")},
        "threads": torch.get_num_threads(),
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    try:
        found = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None


def _read_weights(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise UserError(f"{path} is missing")
    try:
        return safetensors.torch.load_file(path)
    except safetensors.SafetensorError as error:
        raise UserError(f"{path} is damaged: {error}") from error
