"""A bundle: one folder with everything the stack needs, and where it comes from.

::

    meta.json            format, rate, robot, goal, commands that made it, sha256 of every other file
    vae/                 autoencoder with its feature statistics
    latent_policy/       text and path -> codes
    low_level/           codes or frames and proprioception -> motor targets
    captions.safetensors embedded captions by action label, for display only
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib.resources import files
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save
from torch import Tensor

from motionlex.controllers.latent_data import REPLAN_FRAMES
from motionlex.controllers.latent_policy import LatentPolicy
from motionlex.controllers.low_level_policy import LowLevelPolicy
from motionlex.controllers.text import Encoder, TextEncoder
from motionlex.data.errors import UserError
from motionlex.data.features import SCHEMA_VERSION
from motionlex.data.storage import file_sha256, write_bytes, write_json
from motionlex.motion_vae.checkpoint import TrainedAutoencoder, load_run

FORMAT_VERSION = 1
LONGEST_REPLAN_S = 0.32
"""Longest time between two decisions of the running stack [s]."""
PARTS = ("vae", "latent_policy", "low_level")
META = "meta.json"
CAPTIONS = "captions.safetensors"

UNDERSTOOD_FROM = 0.5
"""Threshold of similarity that suits the packaged text encoder: it puts none of the 77 held-out captions of the
built-in actions below 0.51, and 34 of 40 prompts that the library does not hold ("make me a coffee", other languages,
SQL) below 0.5."""


@dataclass(frozen=True, kw_only=True)
class BundleMeta:
    """Contents of ``meta.json``."""

    name: str
    """Name shown to people."""
    hz: float
    """Rate of plan and control [Hz]."""
    robot: str
    """Robot it drives."""
    goal: str
    """What the low-level policy sees: ``decoded`` frames or ``latent`` codes."""
    control: str
    """``pd`` or ``torque``."""
    data: str
    """Data set it was trained on."""
    schema_version: int
    """Version of the feature schema."""
    sampling: dict[str, float | int] = field(default_factory=dict)
    """How codes are drawn unless told otherwise: the fields of ``SamplingConfig``."""
    text_encoder: str | None = None
    """Text encoder that the latent policy was trained with, as it was named; None is the packaged one."""
    text_sha256: str = ""
    """Digest of its weights; empty in bundles of the packaged one that are older than this field."""
    understood_from: float = UNDERSTOOD_FROM
    """Cosine similarity to the nearest caption below which a command is not obeyed, for this text encoder."""
    get_up: str = ""
    """What a fallen robot is told to get up by itself; empty in bundles that have not learned to."""
    commands: tuple[str, ...] = ()
    """Commands that made it."""
    provenance: dict[str, str] = field(default_factory=dict)
    """Commit, versions, training figures, licence."""
    format_version: int = FORMAT_VERSION
    """Version of this layout."""
    sha256: dict[str, str] = field(default_factory=dict)
    """Digest of every other file, by path inside the bundle."""


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A loaded bundle."""

    path: Path
    """Its folder."""
    meta: BundleMeta
    """Its card."""
    autoencoder: TrainedAutoencoder
    """Encodes and decodes segments."""
    latent_policy: LatentPolicy
    """Chooses codes."""
    low_level: LowLevelPolicy
    """Drives the motors."""
    captions: Mapping[str, Float[Tensor, "_ width"]]
    """Embedded captions by action label; feeds no controller."""


def bundle_encoder(bundle: Bundle) -> Encoder:
    """Return the text encoder that a bundle was trained with.

    Raises:
        UserError: If it is not there, or its weights are others.
    """
    try:
        encoder = TextEncoder(bundle.meta.text_encoder)
    except UserError as error:
        raise UserError(
            f"the text encoder of the bundle {bundle.path} is not here ({error}); if it lies elsewhere, "
            f"put its folder as text_encoder into {bundle.path / META}"
        ) from error
    if bundle.meta.text_sha256 not in ("", encoder.digest):
        raise UserError(
            f"the bundle {bundle.path} was trained with another text encoder than {bundle.meta.text_encoder}: its "
            "weights have changed since"
        )
    return encoder


def builtin_bundle() -> Path:
    """Return the folder of the shipped bundle."""
    return Path(str(files("motionlex.controllers.bundles").joinpath("builtin")))


def resolve_bundle(name: str | None) -> Path:
    """Turn what the user gave into a folder: None and ``builtin`` are the shipped bundle."""
    if name == "":
        raise UserError("the name of the bundle is empty: give a folder, or leave it out for the built-in one")
    path = builtin_bundle() if name in (None, "builtin") else Path(str(name))
    if not (path / META).is_file():
        raise UserError(
            f"no bundle at {path}: give a folder made by `motionlex pack-bundle`, "
            "or leave --bundle out for the built-in one"
        )
    return path


def _files(folder: Path) -> Iterable[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / META)


def read_meta(folder: Path) -> BundleMeta:
    """Read the card of a bundle.

    Raises:
        UserError: If it is absent, malformed or of another format.
    """
    path = folder / META
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if (got := values.get("format_version")) != FORMAT_VERSION:
            raise UserError(f"{path}: bundle format {got!r}, this version reads {FORMAT_VERSION}")
        values["commands"] = tuple(values.get("commands", ()))
        return BundleMeta(**values)
    except FileNotFoundError as error:
        raise UserError(f"no bundle at {folder}: {META} is missing") from error
    except (ValueError, TypeError, AttributeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is not the card of a bundle: {error}") from error


def verify(folder: Path) -> BundleMeta:
    """Check that a bundle is complete and unchanged.

    Returns:
        Its card.

    Raises:
        UserError: Naming the first file that is missing, altered or foreign.
    """
    meta = read_meta(folder)
    present = {path.relative_to(folder).as_posix(): path for path in _files(folder)}
    for name, digest in meta.sha256.items():
        if name not in present:
            raise UserError(f"bundle {folder}: {name} is missing; restore it or pack the bundle again")
        if file_sha256(present[name]) != digest:
            raise UserError(
                f"bundle {folder}: {name} has been altered (its sha256 differs from {META}); "
                "restore it or pack the bundle again"
            )
    if not meta.sha256:
        raise UserError(f"bundle {folder}: {META} lists no files")
    if foreign := sorted(set(present) - set(meta.sha256)):
        raise UserError(f"bundle {folder}: {foreign[0]} is not listed in {META}; remove it or pack the bundle again")
    return meta


def load_bundle(folder: Path) -> Bundle:
    """Verify and load a bundle.

    Raises:
        UserError: If it is damaged, or its parts disagree on rate, codes or features.
    """
    meta = verify(folder)
    autoencoder = load_run(folder / "vae", "cpu")
    latent_policy = LatentPolicy.load(folder / "latent_policy")
    low_level = LowLevelPolicy.load(folder / "low_level")
    check_agreement(meta, autoencoder, latent_policy, low_level)
    captions = load_file(folder / CAPTIONS)
    return Bundle(
        path=folder,
        meta=meta,
        autoencoder=autoencoder,
        latent_policy=latent_policy,
        low_level=low_level,
        captions=dict(sorted(captions.items())),
    )


def check_agreement(
    meta: BundleMeta, autoencoder: TrainedAutoencoder, latent_policy: LatentPolicy, low_level: LowLevelPolicy
) -> None:
    """Refuse parts that do not belong together.

    Raises:
        UserError: On different rates, one that is too low, code books, feature counts, goals or kinds of control.
    """
    rates = {
        "bundle": meta.hz,
        "autoencoder": float(autoencoder.statistics.hz),
        "low-level policy": float(low_level.task.hz),
    }
    if len(set(rates.values())) > 1:
        listed = ", ".join(f"{name} {rate:g} Hz" for name, rate in rates.items())
        raise UserError(f"the parts of the bundle run at different rates ({listed}): train them at one rate")
    if REPLAN_FRAMES / meta.hz > LONGEST_REPLAN_S + 1e-9:
        raise UserError(
            f"at {meta.hz:g} Hz a new segment begins every {REPLAN_FRAMES / meta.hz:.2f} s only, wanted "
            f"{LONGEST_REPLAN_S} s: train the parts at {REPLAN_FRAMES / LONGEST_REPLAN_S:g} Hz or more"
        )
    if meta.schema_version != SCHEMA_VERSION:
        raise UserError(f"bundle of feature schema {meta.schema_version}, this version has {SCHEMA_VERSION}")
    shape = latent_policy.config
    model, features = autoencoder.model, autoencoder.statistics.size
    if (shape.vocabulary, shape.tokens, shape.features) != (model.vocabulary, model.tokens, features):
        raise UserError(
            f"the latent policy emits {shape.tokens} codes of {shape.vocabulary} from {shape.features} features, "
            f"the autoencoder has {model.tokens} of {model.vocabulary} and {features}: "
            "it was distilled from another autoencoder"
        )
    if low_level.task.control != meta.control:
        raise UserError(
            f"the bundle says control {meta.control!r}, its low-level policy has {low_level.task.control!r}"
        )
    if low_level.task.goal != meta.goal:
        raise UserError(
            f"the bundle says goal {meta.goal!r}, its low-level policy was trained for {low_level.task.goal!r}"
        )


def save_bundle(
    folder: Path,
    meta: BundleMeta,
    contents: Mapping[str, bytes],
    captions: Mapping[str, Float[Tensor, "_ width"]],
) -> BundleMeta:
    """Write a bundle; either all of it appears or nothing.

    Args:
        folder: Where; must not exist.
        meta: Its card, without digests.
        contents: Files of the parts by path inside the bundle, e.g. ``vae/weights.safetensors``.
        captions: Embedded captions by action label.

    Returns:
        The card with digests.

    Raises:
        UserError: If the folder exists.
    """
    if folder.exists():
        raise UserError(f"{folder} exists: choose another --out or remove it")
    partial = folder.with_name(f".{folder.name}.partial-{os.getpid()}")
    try:
        for name, content in contents.items():
            write_bytes(partial / name, content)
        write_bytes(partial / CAPTIONS, save({label: rows.contiguous() for label, rows in captions.items()}))
        digests = {path.relative_to(partial).as_posix(): file_sha256(path) for path in _files(partial)}
        card = replace(meta, sha256=digests)
        write_json(partial / META, asdict(card))
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return card


def nearest_action(
    text: Float[Tensor, " width"], captions: Mapping[str, Float[Tensor, "_ width"]]
) -> tuple[str, float]:
    """Name the known action whose closest caption resembles a text most. For display: no controller uses it.

    Args:
        text: Unit embedding of the command.
        captions: Unit embeddings of captions by action label.

    Returns:
        Action label and cosine similarity.
    """
    scores = {label: float(torch.max(rows @ text)) for label, rows in captions.items()}
    best = max(scores, key=lambda label: scores[label])
    return best, scores[best]
