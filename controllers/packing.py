"""``motionlex pack-bundle``: three runs become one bundle."""

from __future__ import annotations

import json
import logging
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from motionlex.controllers.averaging import AVERAGED
from motionlex.controllers.bundle import UNDERSTOOD_FROM, BundleMeta, check_agreement, save_bundle, verify
from motionlex.controllers.latent_policy import LatentPolicy
from motionlex.controllers.latent_run import load_high_level_config
from motionlex.controllers.low_level_policy import LowLevelPolicy
from motionlex.controllers.low_level_setup import load_low_level_config
from motionlex.controllers.text import WEIGHTS_SHA256_PREFIX, TextEncoder, TextFunction
from motionlex.data.captions import training_captions
from motionlex.data.errors import UserError, check_number
from motionlex.data.features import SCHEMA_VERSION
from motionlex.data.storage import file_sha256
from motionlex.motion_vae.checkpoint import CONFIG_FILE, META_FILE, WEIGHTS_FILE, load_run, provenance, read_json
from motionlex.motion_vae.registry import PlainValue

logger = logging.getLogger(__name__)
FILES = {
    "vae": (CONFIG_FILE, META_FILE, WEIGHTS_FILE),
    "latent_policy": (CONFIG_FILE, META_FILE, WEIGHTS_FILE),
    "low_level": (CONFIG_FILE, META_FILE, WEIGHTS_FILE, "policy.json"),
}


@dataclass(frozen=True, kw_only=True)
class PackFlags:
    """Pack an autoencoder, a latent policy and a low-level policy into one bundle."""

    vae: Path
    """Run of train_motion_vae."""
    highlevel: Path
    """Run of motionlex train-highlevel, distilled from that autoencoder."""
    lowlevel: Path
    """Run of train_lowlevel with --goal decoded or latent."""
    out: Path
    """Folder of the new bundle."""
    name: str = "builtin"
    """Name of the bundle."""
    licence: str = "Apache-2.0"
    """Licence of the weights."""
    note: str = ""
    """One sentence for the card."""
    temperature: float = 1.0
    """Default temperature of the choice of codes."""
    top_p: float = 1.0
    """Default nucleus of the choice of codes."""
    top_k: int = 0
    """Default number of most likely codes that are kept, 0 for all."""
    guidance: float = 2.0
    """Default classifier-free guidance on the text."""
    path_guidance: float = 1.0
    """Default classifier-free guidance on the desired path."""
    candidates: int = 8
    """Default number of segments that are drawn where there is a desired path, the best of which is taken."""
    understood_from: float | None = None
    """Cosine similarity to the nearest caption below which a command is not obeyed; None is 0.5, which suits the
    packaged BERT."""
    get_up: str = ""
    """What a fallen robot is told to get up by itself, e.g. "get up from the floor"; empty if it has not learned to."""
    json: bool = False
    """Print one JSON object as the last line of stdout."""


def pack_bundle(flags: PackFlags, encode: TextFunction | None = None) -> dict[str, PlainValue]:
    """Pack three runs and check the result.

    Args:
        flags: Runs and card.
        encode: Text encoder; the frozen BERT when None.

    Returns:
        Folder, size [MB] and number of files.

    Raises:
        UserError: If a run is missing or the runs do not belong together.
    """
    if flags.out.exists():
        raise UserError(f"{flags.out} exists: choose another --out or remove it")
    check_number("--understood-from", flags.understood_from, at_least=-1, at_most=1)
    autoencoder = load_run(flags.vae)
    high, low = load_high_level_config(flags.highlevel), load_low_level_config(flags.lowlevel)
    latent_policy, low_level = LatentPolicy.load(flags.highlevel), LowLevelPolicy.load(flags.lowlevel)
    digest = file_sha256(flags.vae / WEIGHTS_FILE)
    if high.vae_sha256 != digest:
        raise UserError(f"{flags.highlevel} was distilled from another autoencoder than {flags.vae}")
    if low.vae is not None and Path(low.vae, WEIGHTS_FILE).is_file():
        if file_sha256(Path(low.vae) / WEIGHTS_FILE) != digest:
            raise UserError(f"{flags.lowlevel} was trained on codes of another autoencoder than {flags.vae}")
    if low.task.goal == "reference":
        raise UserError(f"{flags.lowlevel} follows data-set frames: a bundle needs --goal decoded or latent")
    runs = {"vae": flags.vae, "latent_policy": flags.highlevel, "low_level": flags.lowlevel}
    metas = {part: read_json(run / META_FILE) for part, run in runs.items()}
    meta = BundleMeta(
        name=flags.name,
        hz=float(autoencoder.statistics.hz),
        robot=low.robot,
        goal=low.task.goal,
        control=low.task.control,
        data=high.task.data,
        schema_version=SCHEMA_VERSION,
        sampling={
            "temperature": flags.temperature,
            "top_p": flags.top_p,
            "top_k": flags.top_k,
            "guidance": flags.guidance,
            "path_guidance": flags.path_guidance,
            "candidates": flags.candidates,
        },
        text_encoder=high.task.text_encoder,
        text_sha256=_text(metas["latent_policy"].get("text_sha256")),
        understood_from=UNDERSTOOD_FROM if flags.understood_from is None else flags.understood_from,
        get_up=flags.get_up,
        commands=(
            *(_command(meta) for run in runs.values() for meta in _history(run)),
            _command(provenance()),
        ),
        provenance={"licence": flags.licence, "note": flags.note}
        | {f"{part}_{key}": _text(values.get(key)) for part, values in metas.items() for key in ("commit", "steps")},
    )
    check_agreement(meta, autoencoder, latent_policy, low_level)
    if flags.understood_from is None and not _packaged(meta):
        logger.warning(
            "commands are refused below a similarity of %g, which suits the packaged text encoder and was not measured "
            "for %s: compare captions and foreign prompts, and give --understood-from",
            meta.understood_from,
            meta.text_encoder,
        )
    encode = TextEncoder(high.task.text_encoder).encode if encode is None else encode
    captions = {label: encode(training_captions(label))[:, 0] for label in _labels(metas["latent_policy"])}
    contents = {f"{part}/{name}": _content(run / name) for part, run in runs.items() for name in FILES[part]}
    save_bundle(flags.out, meta, contents, captions)
    verify(flags.out)
    files = [path for path in flags.out.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files) / 1e6
    logger.info("%s: %d files, %.1f MB", flags.out, len(files), size)
    return {"bundle": str(flags.out), "size_mb": size, "files": len(files), "goal": meta.goal, "hz": meta.hz}


def _packaged(meta: BundleMeta) -> bool:
    """Whether the text encoder is the packaged one, by whatever name."""
    return meta.text_encoder is None or meta.text_sha256.startswith(WEIGHTS_SHA256_PREFIX)


def _labels(meta: Mapping[str, PlainValue]) -> list[str]:
    """Action labels that the latent policy was trained on."""
    labels = meta.get("labels")
    if not isinstance(labels, (list, tuple)) or not labels:
        raise UserError("the run of train-highlevel names no action labels in its meta.json: train it again")
    return [str(label) for label in labels]


def _content(path: Path) -> bytes:
    """Read a file of a run; absolute paths inside JSON files are shortened to ``runs/<name>``."""
    if not path.is_file():
        raise UserError(f"{path} is missing")
    if path.suffix != ".json":
        return path.read_bytes()
    return (json.dumps(_portable(json.loads(path.read_text(encoding="utf-8"))), indent=2) + "\n").encode()


def _portable(value: object) -> object:
    """Shorten absolute paths, which mean nothing on another machine."""
    if isinstance(value, dict):
        return {key: _portable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_portable(item) for item in value]
    if isinstance(value, str) and Path(value).is_absolute():
        return f"runs/{Path(value).name}"
    return value


def _history(run: Path, seen: frozenset[Path] = frozenset()) -> list[Mapping[str, PlainValue]]:
    """Provenance of a run and of those its weights come from (``--init``, or their mean), oldest first, each once."""
    if run in seen or not (run / META_FILE).is_file():
        return []
    meta = read_json(run / META_FILE)
    averaged = meta.get(AVERAGED)
    start = read_json(run / CONFIG_FILE).get("init")
    sources = averaged if isinstance(averaged, (list, tuple)) else [start] if isinstance(start, str) else []
    history: list[Mapping[str, PlainValue]] = []
    for source in sources:
        history += [older for older in _history(Path(str(source)), seen | {run}) if older not in history]
    return [*history, meta]


def _command(meta: Mapping[str, PlainValue]) -> str:
    """The command that made a run, as one would type it, and the step at which its weights were taken."""
    command = _portable(meta.get("command"))
    if not isinstance(command, list):
        return ""
    steps = meta.get("steps")
    return shlex.join(str(word) for word in command) + ("" if steps is None else f"  # weights of step {steps}")


def _text(value: object) -> str:
    return "" if value is None else str(value)
