"""Which changes of command make the tracker fall: rollouts over the switches of generated motion."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Int

from motionlex.controllers.generated import GeneratedMotion
from motionlex.controllers.generated_library import generated_command, generated_library
from motionlex.controllers.tracking_rollout import Policy, roll_out
from motionlex.data.errors import UserError
from motionlex.envs.batched import BatchedTracking
from motionlex.envs.randomisation import Randomisation
from motionlex.envs.reference import MotionLibrary
from motionlex.envs.task import TrackingTask
from motionlex.envs.task_config import TaskConfig

Report = dict[str, float | int | dict[str, dict[str, float]] | list[dict[str, float | int | str]]]
_WORST = 12


@dataclass(frozen=True, kw_only=True)
class Switches:
    """Changes of command, one row each, whose surroundings are plausible."""

    before: tuple[str, ...]
    """Action until then."""
    after: tuple[str, ...]
    """Action from then on."""
    start: Int[np.ndarray, " switch"]
    """Library frame, ``lead_s`` ahead of the switch, at which a rollout starts."""
    stop: Int[np.ndarray, " switch"]
    """Library frame at which the next command comes or the run ends."""


def find_switches(motion: GeneratedMotion, library: MotionLibrary, lead_s: float = 1.0) -> Switches:
    """List the changes of command.

    Args:
        motion: Plans.
        library: ``generated_library`` of them.
        lead_s: Time before a switch at which a rollout starts [s]; none starts before the command before the switch.

    Returns:
        Switches with an unmasked start and at least half a second of unmasked motion after them.
    """
    lead, shortest = round(lead_s * library.hz), round(0.5 * library.hz)
    rows = []
    for index, plan in enumerate(motion.plans):
        for before, after in zip(plan.clip.labels[:-1], plan.clip.labels[1:], strict=True):
            start = max(before.start, after.start - lead)
            own = (library.run_clip == index) & (library.clip_frame[library.run_starts] <= start)
            if not own.any():
                continue
            run = int(np.flatnonzero(own)[-1])
            first = int(library.run_starts[run]) - int(library.clip_frame[library.run_starts[run]])
            stop = min(first + after.stop, int(library.run_last[run]))
            if stop >= first + after.start + shortest:
                rows.append((before.label, after.label, first + start, stop))
    if not rows:
        raise UserError("the generated motion holds no switch to roll out: plan more minutes")
    names, others, starts, stops = zip(*rows, strict=True)
    return Switches(before=names, after=others, start=np.array(starts), stop=np.array(stops))


def evaluate_switches(
    policy: Policy, motion: GeneratedMotion, *, config: TaskConfig, lead_s: float = 1.0, threads: int = 1
) -> Report:
    """Roll the policy out over every switch, from ``lead_s`` before it until the next command.

    Args:
        policy: Low-level policy.
        motion: Plans of the high-level policy.
        config: The policy's task; randomisation is switched off.
        lead_s: Time before the switch at which the robot is put on the plan [s].
        threads: Physics threads.

    Returns:
        ``success_rate`` (no termination until the next command), ``switches``, ``pairs`` of actions reached,
        ``success_by_pair`` (action before, action after), ``success_by_action`` (before and after the switch)
        and ``worst``: the pairs that failed, most failures first.
    """
    library = generated_library(motion)
    command = generated_command(motion, library, config.goal, config.ahead)
    found = find_switches(motion, library, lead_s)
    horizon = int((found.stop - found.start).max())
    task = TrackingTask(
        motion.robot,
        library,
        replace(config, episode_s=horizon / config.hz, randomisation=Randomisation(), privileged_critic=False),
        command,
    )
    env = BatchedTracking(task, worlds=len(found.start), threads=threads, generator=np.random.default_rng(0))
    env.reset_to(found.start)
    outcome = roll_out(policy, env, horizon, complete=False)
    env.close()
    survived = ~outcome.failed | (found.start + outcome.steps > found.stop)
    return summarise_switches(found, survived)


def summarise_switches(found: Switches, survived: Bool[np.ndarray, " switch"]) -> Report:
    """Count successes by pair of actions."""
    pairs = list(zip(found.before, found.after, strict=True))
    table: dict[str, dict[str, float]] = {}
    worst: list[dict[str, float | int | str]] = []
    for pair in sorted(set(pairs)):
        rows = np.array([other == pair for other in pairs])
        table.setdefault(pair[0], {})[pair[1]] = float(survived[rows].mean())
        if failures := int((~survived[rows]).sum()):
            worst.append({"before": pair[0], "after": pair[1], "failures": failures, "switches": int(rows.sum())})
    worst.sort(key=lambda row: (-float(row["failures"]) / float(row["switches"]), -int(row["failures"])))
    return {
        "success_rate": float(survived.mean()),
        "switches": len(pairs),
        "pairs": len(set(pairs)),
        "success_by_pair": table,
        "success_by_action": {"before": _by(found.before, survived), "after": _by(found.after, survived)},
        "worst": worst[:_WORST],
    }


def _by(actions: tuple[str, ...], survived: Bool[np.ndarray, " switch"]) -> dict[str, float]:
    names = np.array(actions)
    return {str(name): float(survived[names == name].mean()) for name in np.unique(names)}
