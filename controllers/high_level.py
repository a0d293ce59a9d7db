"""The parts that turn text into frames, from a bundle or from a run of ``motionlex train-highlevel``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from motionlex.controllers.bundle import load_bundle, resolve_bundle
from motionlex.controllers.code_sampling import SamplingConfig
from motionlex.controllers.latent_policy import LatentPolicy
from motionlex.controllers.latent_run import load_high_level_config
from motionlex.data.errors import UserError
from motionlex.data.storage import content_key, file_sha256
from motionlex.motion_vae.checkpoint import META_FILE, WEIGHTS_FILE, TrainedAutoencoder, load_run, read_json

PACKED_SAMPLING = SamplingConfig(guidance=2.0)
"""How a run draws codes; what ``motionlex pack-bundle`` writes unless told otherwise."""


@dataclass(frozen=True, kw_only=True)
class HighLevel:
    """Everything that planning needs."""

    path: Path
    """Where it was loaded from."""
    autoencoder: TrainedAutoencoder
    """Decodes codes."""
    latent_policy: LatentPolicy
    """Chooses codes."""
    sampling: SamplingConfig
    """How codes are drawn."""
    actions: tuple[str, ...]
    """Action labels that the latent policy was trained on, in alphabetical order."""
    robot: str
    """Robot that the motions are of."""
    vae_sha256: str
    """Digest of the autoencoder's weights."""
    policy_sha256: str
    """Digest of the latent policy's weights."""
    text_encoder: str | None
    """Text encoder that it was trained with; None is the packaged one."""

    @property
    def hz(self) -> float:
        """Rate of the plan [1/s]."""
        return float(self.autoencoder.statistics.hz)

    @property
    def digest(self) -> str:
        """One digest of both parts."""
        return content_key(self.vae_sha256, self.policy_sha256)


def load_high_level(path: Path) -> HighLevel:
    """Load a bundle (``builtin`` is the shipped one) or a run of ``motionlex train-highlevel``.

    Raises:
        UserError: If the folder is neither, damaged, or its autoencoder has changed.
    """
    if str(path) == "builtin" or (path / "latent_policy").is_dir():
        return _from_bundle(resolve_bundle(str(path)))
    if not (path / WEIGHTS_FILE).is_file():
        raise UserError(f"--generated {path}: no bundle and no run of motionlex train-highlevel is there")
    config = load_high_level_config(path)
    digest = file_sha256(Path(config.task.vae) / WEIGHTS_FILE) if Path(config.task.vae).is_dir() else ""
    if digest != config.vae_sha256:
        raise UserError(f"--generated {path}: its autoencoder {config.task.vae} is missing or has changed since")
    labels = read_json(path / META_FILE).get("labels")
    if not isinstance(labels, (list, tuple)) or not labels:
        raise UserError(f"--generated {path} names no action labels in its {META_FILE}: train it again")
    return HighLevel(
        path=path,
        autoencoder=load_run(config.task.vae),
        latent_policy=LatentPolicy.load(path),
        sampling=PACKED_SAMPLING,
        actions=tuple(sorted(map(str, labels))),
        robot="h1",  # the only robot that data sets with action labels have
        vae_sha256=digest,
        policy_sha256=file_sha256(path / WEIGHTS_FILE),
        text_encoder=config.task.text_encoder,
    )


def _from_bundle(folder: Path) -> HighLevel:
    bundle = load_bundle(folder)
    return HighLevel(
        path=folder,
        autoencoder=bundle.autoencoder,
        latent_policy=bundle.latent_policy,
        sampling=SamplingConfig(**bundle.meta.sampling),
        actions=tuple(sorted(bundle.captions)),
        robot=bundle.meta.robot,
        vae_sha256=file_sha256(folder / "vae" / WEIGHTS_FILE),
        policy_sha256=file_sha256(folder / "latent_policy" / WEIGHTS_FILE),
        text_encoder=bundle.meta.text_encoder,
    )
