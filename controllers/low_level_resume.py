"""What a low-level run keeps when it is continued: its flags, its motions and its autoencoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path

from motionlex.controllers.low_level_config import LowLevelConfig
from motionlex.controllers.low_level_flags import LowLevelFlags
from motionlex.controllers.low_level_setup import load_low_level_config
from motionlex.controllers.low_level_state import (
    PLAIN_SCORE_EVERY,
    PLAIN_SCORES,
    SCORE_EVERY,
    Progress,
)
from motionlex.data.errors import UserError
from motionlex.envs.randomisation import Preset, Randomisation
from motionlex.motion_vae import checkpoint
from motionlex.motion_vae.registry import PlainValue

_SETTLED = {f"task.{name}" for name in ("integrator", "solver", "cone", "tolerance")}
"""Settings that older versions had no name for, but today's defaults as their only value."""
_PRESETS: tuple[Preset, ...] = ("none", "light", "heavy")


def resumed(flags: LowLevelFlags, folder: Path) -> tuple[LowLevelConfig, dict[str, PlainValue]]:
    """Return the configuration (with a new total of steps, if one is asked for) and the meta.json of a run.

    Raises:
        UserError: If the folder is no run, or a flag contradicts it.
    """
    config = load_low_level_config(folder)
    if not _leaves(asdict(config)) - _leaves(checkpoint.read_json(folder / checkpoint.CONFIG_FILE)) <= _SETTLED:
        checkpoint.check_complete(config, folder)
    check_unchanged(flags, config)
    return replace(config, steps=flags.steps or config.steps), checkpoint.read_json(folder / checkpoint.META_FILE)


def _leaves(values: Mapping[str, object], prefix: str = "") -> set[str]:
    """Return the dotted paths of all settings."""
    found: set[str] = set()
    for name, value in values.items():
        found |= _leaves(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name}
    return found


def check_unchanged(flags: LowLevelFlags, config: LowLevelConfig) -> None:
    """Refuse flags that contradict the run that is resumed; those that have their default value say nothing.

    Raises:
        UserError: Naming the flag, what the run has and what was given.
    """
    task, kicks = config.task, config.task.randomisation.push_speed
    saved: dict[str, PlainValue] = {
        "env": config.robot,
        "goal": task.goal,
        "control": task.control,
        "reward": task.reward,
        "hz": task.hz,
        "worlds": config.ppo.worlds,
        "randomise": next(
            (n for n in _PRESETS if replace(Randomisation.preset(n), push_speed=kicks) == task.randomisation), None
        ),
        "push": kicks,
        "out": None,
        "set": (),
    }
    for name in ("data", "clips", "code_draws", "generated_minutes", "generated_share", "preset", "backend"):
        saved[name] = getattr(config, name)
    for name in ("vae", "generated", "init", "teacher", "prepare", "distill_steps", "seed"):
        saved[name] = getattr(config, name)
    defaults = {field.name: field.default for field in fields(LowLevelFlags)}
    for name, value in saved.items():
        given = getattr(flags, name)
        if given == defaults[name] or given == value:
            continue
        if isinstance(given, Path) and value is not None and given.absolute() == Path(str(value)).absolute():
            continue
        shown = str(given) if isinstance(given, Path) else given
        raise UserError(
            f"--{name.replace('_', '-')} is fixed when a run is created: {flags.resume} has {value!r}, got {shown!r}"
        )


def check_inputs(folder: Path, meta: Mapping[str, PlainValue], found: Mapping[str, str]) -> None:
    """Refuse to go on with other motions or codes than a run began with.

    Args:
        folder: The run.
        meta: Its meta.json, where the hashes are; the autoencoder's is missing in runs of older versions.
        found: Hashes of what there is now, by the same names.

    Raises:
        UserError: If one differs.
    """
    changed = {
        "data_sha256": "the motions differ from those the run was started with",
        "generated_sha256": "the policy behind --generated has changed since the run was started",
        "vae_sha256": "the autoencoder (--vae) was trained again since the run was started, so its codes differ",
    }
    for name, digest in found.items():
        if meta.get(name, digest if name == "vae_sha256" else None) != digest:
            raise UserError(f"--resume {folder}: {changed[name]}")


def progress_plan(
    flags: LowLevelFlags, config: LowLevelConfig, meta: Mapping[str, PlainValue]
) -> tuple[Progress, dict[str, PlainValue]]:
    """Say when a run is saved, scored and stopped: as the flags ask, else as the run had it.

    A new run that is told nothing is scored every twentieth of its steps, but not more often than every 250,000.

    Returns:
        The plan, and ``meta`` with what a resume is to keep of it.
    """
    every = meta.get("evaluate_every") if flags.evaluate_every is None else flags.evaluate_every
    target = meta.get("target_success") if flags.target_success is None else flags.target_success
    if flags.evaluate_every is None and not every and target is not None:
        every = SCORE_EVERY
    elif every is None and flags.resume is None:
        every = max(PLAIN_SCORE_EVERY, config.steps // PLAIN_SCORES)
    plan = Progress(
        total=config.steps,
        checkpoint_s=flags.checkpoint_s,
        evaluate_every=0 if every is None else int(str(every)),
        target_success=None if target is None else float(str(target)),
    )
    return plan, {**meta, "evaluate_every": every, "target_success": target}
