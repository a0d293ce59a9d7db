"""Configuration of a low-level run: presets, what flags make of them, and the clips that it names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from motionlex.controllers.low_level_flags import LowLevelFlags
from motionlex.controllers.ppo_config import PPOConfig
from motionlex.data.clip import MotionClip
from motionlex.data.errors import UserError, unknown_name
from motionlex.data.robots import available_robots
from motionlex.envs.randomisation import Randomisation
from motionlex.envs.task_config import Goal, TaskConfig
from motionlex.envs.warp_config import WarpBuffers
from motionlex.motion_vae.registry import override_config, setting_path

TRAINED_RATE = 1.5e-4
"""Initial learning rate of actors that were trained before (--init, --teacher); the KL control takes over from it."""

CODE_DRAWS = 4
"""Draws of the codes of every segment that training sees unless told otherwise."""
GENERATED_MINUTES = 28.0
"""Duration of a policy's own motions unless told otherwise [min]."""
GENERATED_SHARE = 0.5
"""Share of the episodes that start in them unless told otherwise."""
DISTILL_STEPS = 2_000_000
"""Control steps of an imitation unless told otherwise."""

_OWN_FLAGS = {
    **{name: f"--{name.replace('_', '-')}" for name in ("data", "data_root", "clips", "vae", "code_draws", "preset")},
    **{name: f"--{name.replace('_', '-')}" for name in ("generated", "generated_minutes", "generated_share")},
    **{name: f"--{name.replace('_', '-')}" for name in ("backend", "prepare", "init", "teacher", "distill_steps")},
    **{f"task.{name}": f"--{name}" for name in ("goal", "control", "reward", "hz")},
    "robot": "--env",
    "steps": "--steps",
    "seed": "--seed",
    "ppo.worlds": "--worlds",
    "task.randomisation.push_speed": "--push",
}
"""Settings that are flags, hence nothing for --set."""
RSL_RATES = (1e-5, 1e-2)
"""Smallest and largest learning rate that rsl_rl adapts to; not ours to change."""


@dataclass(frozen=True, kw_only=True)
class LowLevelConfig:
    """Everything that was decided when a run was created; saved as config.json."""

    robot: str = "h1"
    """Robot."""
    data: str = "builtin"
    """Data set."""
    data_root: str | None = None
    """Folder of the data set, None for its environment variable."""
    clips: tuple[str, ...] = ()
    """Clips and parts; none means the training split."""
    vae: str | None = None
    """Autoencoder run that the codes come from."""
    code_draws: int = 1
    """Draws of the codes of every segment that training sees."""
    generated: str | None = None
    """High-level policy whose motions training sees as well."""
    generated_minutes: float = 0.0
    """Duration of those motions [min]."""
    generated_share: float = 0.0
    """Share of the episodes that start in them."""
    preset: str = "small"
    """Recipe it started from."""
    backend: Literal["cpu", "warp"] = "cpu"
    """Physics it was trained with."""
    buffers: WarpBuffers = field(default_factory=WarpBuffers)
    """Sizes of MuJoCo Warp's buffers."""
    prepare: bool = False
    """Whether motions are smoothed and set on the floor."""
    hidden: tuple[int, ...] = (256, 256)
    """Widths of actor and critic."""
    task: TaskConfig = field(default_factory=TaskConfig)
    """The task."""
    ppo: PPOConfig = field(default_factory=PPOConfig)
    """Hyper-parameters."""
    init: str | None = None
    """Where the initial weights came from."""
    teacher: str | None = None
    """Run that was imitated before step 0."""
    distill_steps: int = 0
    """Control steps of that imitation."""
    steps: int = 3_000_000
    """Total control steps last asked for."""
    seed: int = 0
    """Seed."""


def preset_config(name: Literal["small", "paper"], goal: Goal) -> LowLevelConfig:
    """Return a recipe: ``small`` as measured on two cores, ``paper`` as in DAPS appendix K (its sizes and rate)."""
    if name == "small":
        return LowLevelConfig(task=TaskConfig(goal=goal))
    small = LowLevelConfig(task=TaskConfig(goal=goal, control="torque"))
    return replace(at_rate(small, 100.0), preset="paper", hidden=(2048, 1024, 512), steps=100_000_000)


def at_rate(config: LowLevelConfig, hz: float) -> LowLevelConfig:
    """Return a recipe for another control rate with the same durations in seconds.

    Horizon, discount, its decay and the look-ahead of the command are numbers per control step; kept as they are, a
    policy at twice the rate would look half as far ahead.
    """
    factor = hz / config.task.hz
    ppo = replace(
        config.ppo,
        horizon=max(1, round(config.ppo.horizon * factor)),
        minibatch=max(1, round(config.ppo.minibatch * factor)),
        gamma=config.ppo.gamma ** (1.0 / factor),
        gae_lambda=config.ppo.gae_lambda ** (1.0 / factor),
    )
    ahead = tuple(max(1, round(frames * factor)) for frames in config.task.ahead)
    return replace(config, ppo=ppo, task=replace(config.task, hz=hz, ahead=ahead))


def on_many_worlds(config: LowLevelConfig) -> LowLevelConfig:
    """Return a recipe for thousands of worlds on a GPU: longer batches, four gradients per pass, a tighter KL.

    Horizon, mini-batches, learning rate and KL per gradient are those of Rudin et al. 2022, as in rsl_rl; the rest
    stays as the preset has it.
    """
    ppo = replace(
        config.ppo,
        worlds=4096,
        horizon=24,
        minibatch=24_576,
        actor_rate=1e-3,
        target_kl=0.01,
        minimum_kl=0.01,
        rate_bounds=RSL_RATES,
    )
    return replace(config, backend="warp", ppo=ppo, steps=max(config.steps, 100_000_000))


def resolve_config(flags: LowLevelFlags) -> LowLevelConfig:
    """Merge flags into the preset.

    Raises:
        UserError: On an unknown robot, a goal without codes, a flag that would change nothing without another one,
            or a setting that the chosen backend takes no notice of.
    """
    if flags.env not in available_robots():
        raise unknown_name("robot", flags.env, available_robots(), "data/robots/")
    if flags.goal != "reference" and flags.vae is None:
        raise UserError(f"--goal {flags.goal} needs the codes of an autoencoder: give --vae RUN")
    _check_companions(flags)
    base = preset_config(flags.preset, flags.goal)
    base = at_rate(base, flags.hz or base.task.hz)
    base = base if flags.backend == "cpu" else on_many_worlds(base)
    variation = Randomisation.preset(flags.randomise)
    task = replace(
        base.task,
        control=flags.control or base.task.control,
        reward=flags.reward,
        randomisation=variation if flags.push is None else replace(variation, push_speed=flags.push),
    )
    merged = replace(
        base,
        robot=flags.env,
        data=flags.data,
        data_root=None if flags.data_root is None else str(flags.data_root),
        clips=flags.clips,
        vae=None if flags.vae is None else str(flags.vae),
        code_draws=flags.code_draws or (1 if flags.goal == "reference" else CODE_DRAWS),
        generated=None if flags.generated is None else str(flags.generated),
        generated_minutes=0.0 if flags.generated is None else flags.generated_minutes or GENERATED_MINUTES,
        generated_share=0.0 if flags.generated is None else flags.generated_share or GENERATED_SHARE,
        prepare=flags.data == "lafan1" if flags.prepare is None else flags.prepare,
        task=task,
        ppo=replace(
            base.ppo,
            worlds=flags.worlds or base.ppo.worlds,
            actor_rate=base.ppo.actor_rate if flags.init is None and flags.teacher is None else TRAINED_RATE,
        ),
        init=None if flags.init is None else str(flags.init),
        teacher=None if flags.teacher is None else str(flags.teacher),
        distill_steps=0 if flags.teacher is None else flags.distill_steps or DISTILL_STEPS,
        steps=flags.steps or base.steps,
        seed=flags.seed,
    )
    config = override_config(merged, flags.set, _OWN_FLAGS)  # last, so that no flag's default undoes a setting
    _check_heard(config, flags.set)
    return config


def _check_heard(config: LowLevelConfig, settings: Sequence[str]) -> None:
    """Refuse settings of which the chosen physics and its PPO take no notice; those of a preset may stand there.

    Args:
        config: With the settings in it.
        settings: Those that the user gave, ``name=value``.
    """
    for setting in settings:
        path = setting_path(config, setting)
        reason = None
        if config.backend == "cpu" and path.startswith("buffers."):
            reason = "means nothing without --backend warp, whose buffers it sizes"
        elif config.backend == "warp" and path == "ppo.critic_rate":
            reason = "means nothing with --backend warp, where one learning rate, actor_rate, serves actor and critic"
        elif config.backend == "warp" and path == "ppo.minimum_kl" and config.ppo.minimum_kl != config.ppo.target_kl:
            reason = (
                "means nothing with --backend warp, whose KL divergence does not shrink with the failures: set "
                f"target_kl, now {config.ppo.target_kl:g}, or give both the same value"
            )
        elif config.backend == "warp" and path == "ppo.rate_bounds":
            least, largest = RSL_RATES
            if not least <= config.ppo.rate_bounds[0] <= config.ppo.rate_bounds[1] <= largest:
                reason = f"with --backend warp rsl_rl keeps the rate within {least:g} and {largest:g}"
        if reason is not None:
            raise UserError(f"--set {setting}: {reason}")


def _check_companions(flags: LowLevelFlags) -> None:
    """Refuse flags that mean nothing without another one."""
    for name, companion in (
        ("generated_minutes", "generated"),
        ("generated_share", "generated"),
        ("distill_steps", "teacher"),
    ):
        if getattr(flags, name) is not None and getattr(flags, companion) is None:
            raise UserError(f"--{name.replace('_', '-')} means nothing without --{companion}: give both or neither")


def select_clips(clips: Sequence[MotionClip], names: Sequence[str]) -> tuple[MotionClip, ...]:
    """Pick clips by ``name`` or ``name:from-to`` in seconds.

    Raises:
        UserError: On an unknown clip or a part that is not two increasing numbers inside the clip.
    """
    chosen = []
    for name in names:
        stem, colon, part = name.partition(":")
        clip = next((c for c in clips if c.name == stem), None)
        if clip is None:
            raise unknown_name("clip", stem, [c.name for c in clips], "the data set")
        if colon:
            try:
                start, stop = (float(x) for x in part.split("-"))
            except ValueError:
                raise UserError(f"--clips {name}: wanted name:from-to in seconds, e.g. {stem}:10-20") from None
            if not 0 <= start < stop <= clip.duration_s + 1e-9:
                raise UserError(f"--clips {name}: the clip lasts {clip.duration_s:.1f} s")
            clip = clip.slice(round(start * clip.hz), min(round(stop * clip.hz) + 1, clip.frames))
        chosen.append(clip)
    return tuple(chosen)
