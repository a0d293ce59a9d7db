"""How well a low-level policy follows its motions: deterministic rollouts from stratified starts, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Int

from motionlex.controllers.intervals import ASSUMPTION, bootstrap_interval, ratio, wilson_interval
from motionlex.controllers.rollout_starts import repeated_starts, spread_starts, stratified_starts
from motionlex.controllers.tracking_rollout import Outcome, Policy, joined, place, roll_out
from motionlex.data.clip import category_of
from motionlex.data.errors import UserError
from motionlex.data.robots import Robot
from motionlex.envs.batched import BatchedTracking
from motionlex.envs.randomisation import Randomisation
from motionlex.envs.reference import CommandSource, MotionLibrary
from motionlex.envs.task import TrackingTask
from motionlex.envs.task_config import TaskConfig
from motionlex.envs.transfer import Model

Intervals = dict[str, tuple[float, float] | None]
Summary = dict[str, float | int | str | Intervals | None]
Report = dict[str, float | int | str | bool | Intervals | list[Summary] | None]

RATES = ("success_rate", "success_rate_keypoint", "success_rate_keypoint_world")
"""Shares of episodes."""
WITHIN_S = 0.5
"""Repeated starts are spread over this time [s]."""
_WORST = 5
_BATCH = 512
_NOTES = {
    True: "The codes say nothing about place: reward, terminations and success_rate_keypoint move the reference under "
    "the robot (x, y, heading), and the local error does. success_rate_keypoint_world, keypoint_error_global_mm, "
    "root_drift_m and heading_drift_rad compare with the library in the world, so they hold the drift that nothing "
    "corrects: a policy that turns the wrong way shows there and nowhere else, and one that does so on the spot only "
    "in heading_drift_rad, since its key points stay within 0.5 m.",
    False: "All errors are against the library in the world; local ones after moving it to the robot's root.",
}
_LENGTHS = (
    "Success is to reach {seconds:g} s or the end of the motion, whichever comes first: full_length_share is the share "
    "of the episodes whose motion lasts {seconds:g} s, mean_possible_s what all would survive at best. {starts}"
)
_STARTS = {
    False: "Repeated starts are moved to where {seconds:g} s are left, into the first frames of a motion that is "
    "hardly longer.",
    True: "Starts are spread evenly over what leaves {seconds:g} s, and over the first half second of a motion that is "
    "shorter or hardly longer; repeats begin at the same frame.",
}


def evaluate_tracking(
    policy: Policy,
    library: MotionLibrary,
    command: CommandSource | None,
    *,
    robot: Robot,
    config: TaskConfig,
    per_run: int = 3,
    seconds: float = 10.0,
    threads: int = 1,
    starts: Sequence[int] | None = None,
    spread: int | None = None,
    repeats: int = 1,
    noise: bool = False,
    seed: int = 0,
    model: Model | None = None,
    randomisation: Randomisation | None = None,
) -> Report:
    """Roll the policy out and compare with the library.

    An episode succeeds if it is not terminated within ``seconds`` or until its motion ends, whichever comes first: a
    motion of 6 s asks for 6 s only. ``full_length_share`` is the share of the episodes whose motion lasts for all of
    ``seconds``, ``mean_possible_s`` the mean of what there is to survive, to be read beside ``mean_survival_s``; the
    step that fails counts as not survived. By the rule of other projects (``success_rate_keypoint``, the task's own
    terminations off) an episode succeeds if the mean key-point error stays within 0.5 m and the robot does not fall.
    For goal ``latent`` both rules first move the reference under the robot; ``success_rate_keypoint_world`` never does.
    Drifts are those of the last frame before termination.
    Errors are means over the frames before termination, weighted by frame; the reference of a step is read before the
    step is taken.

    Args:
        policy: The policy.
        library: Motions to follow.
        command: What the policy sees; None shows the library.
        robot: The robot.
        config: The task; its own episode length and randomisation are left out.
        per_run: Starts per stretch of valid frames.
        seconds: Longest rollout [s].
        threads: Physics threads.
        starts: Library frames to start at; None spreads ``per_run`` over every run.
        spread: So many starts, evenly over the library, in place of the others: those of :func:`quick_score`.
        repeats: Rollouts per start, spread over half a second, but so that as many as can be have full length, see
            :func:`motionlex.controllers.rollout_starts.repeated_starts`; with ``spread`` all from the very frame.
            Without noise no frame starts twice.
        noise: Perturb the starts as in training (``config.noise``).
        seed: Seed of that noise, of the randomisation and of the bootstrap.
        model: Physics in place of the robot's own model, see :func:`motionlex.envs.transfer.transfer_model`.
        randomisation: What differs from episode to episode; None for nothing.

    Returns:
        ``success_rate``, ``success_rate_keypoint``, ``success_rate_keypoint_world``, ``mean_survival_s``,
        ``mean_possible_s``, ``full_length_share``, ``seconds`` (of a full-length episode), ``keypoint_error_local_mm``,
        ``keypoint_error_global_mm``, ``joint_error_rad``, ``joint_velocity_error_rad_s``, ``root_drift_m``,
        ``heading_drift_rad``, ``torque_saturation``, ``energy_j_per_s``, ``cost_of_transport``,
        ``foot_sliding_mm_s`` (None where there is nothing to average), ``intervals_95`` (both ends by name, None with
        fewer than two episodes), ``episodes``, ``hz``, ``noise``, ``randomised``, ``errors`` (what they refer to),
        ``lengths`` (what success asks for), ``intervals`` (what they assume), ``clips`` and ``categories`` (the same
        figures for each) and ``worst`` (the clips that fail most).
    """
    varied = randomisation or Randomisation()
    config = replace(config, episode_s=seconds, randomisation=varied, privileged_critic=False)
    task = TrackingTask(robot, library, config, command)
    horizon = round(seconds * config.hz)
    within = round(WITHIN_S * config.hz)
    differ = noise or varied != Randomisation()
    if spread is not None:
        frames = np.repeat(spread_starts(library, spread, horizon, within), repeats)
    else:
        frames = stratified_starts(library, per_run, horizon) if starts is None else np.asarray(starts, dtype=np.int64)
        frames = repeated_starts(library, frames, repeats, within, horizon, distinct=not differ)
    frames = frames if differ else np.unique(frames)
    outcome = _in_batches(policy, task, frames, horizon, threads, noise, seed, model=model)
    owner = library.clip_of(frames)
    names = [library.clip_names[index] for index in owner]
    clips = _groups(outcome, np.array(names), "clip", config.hz, horizon, seed)
    categories = np.array([category_of(name) for name in names])
    everything = _summary(outcome, np.ones(len(frames), dtype=bool), config.hz, horizon, seed)
    return {
        **everything,
        "hz": config.hz,
        "noise": noise,
        "randomised": varied != Randomisation(),
        "seconds": seconds,
        "errors": _NOTES[task.root_relative],
        "lengths": _LENGTHS.format(seconds=seconds, starts=_STARTS[spread is not None].format(seconds=seconds)),
        "intervals": ASSUMPTION,
        "clips": clips,
        "categories": _groups(outcome, categories, "category", config.hz, horizon, seed),
        "worst": worst_clips(clips),
    }


def quick_score(
    policy: Policy,
    library: MotionLibrary,
    command: CommandSource | None,
    *,
    robot: Robot,
    config: TaskConfig,
    episodes: int = 32,
    seconds: float = 10.0,
    threads: int = 1,
    noise: bool = True,
    seed: int = 0,
) -> dict[str, float]:
    """Measure what a training run wants to know now and then, on few rollouts; the same ones every time.

    Args:
        policy: The policy; acts without exploration.
        library: Motions to follow.
        command: What the policy sees; None shows the library.
        robot: The robot.
        config: The task; its own episode length and randomisation are ignored.
        episodes: Rollouts, spread evenly over the library (a clip of ten seconds: over its first half second).
        seconds: Longest rollout [s].
        threads: Physics threads.
        noise: Perturb the starts as in training.
        seed: Seed of that noise.

    Returns:
        ``success_rate``, ``mean_survival_s``, ``mean_possible_s``, ``keypoint_error_local_mm`` (NaN if nothing
        survived a step).
    """
    config = replace(config, episode_s=seconds, randomisation=Randomisation(), privileged_critic=False)
    task = TrackingTask(robot, library, config, command)
    horizon = round(seconds * config.hz)
    frames = spread_starts(library, episodes, horizon, round(WITHIN_S * config.hz))
    outcome = _in_batches(policy, task, frames, horizon, threads, noise, seed, complete=False)
    local = "keypoint_error_local_mm"
    return {
        "success_rate": float(1.0 - outcome.failed.mean()),
        "mean_survival_s": float(outcome.steps.mean() / config.hz),
        "mean_possible_s": float(outcome.possible.mean() / config.hz),
        local: ratio(outcome.sums[local], outcome.weights[local]),
    }


def worst_clips(clips: Sequence[Summary], count: int = _WORST) -> list[Summary]:
    """Return the clips with the lowest success, the larger local error first among equals."""

    def rank(row: Summary) -> tuple[float, float]:
        success, error = row["success_rate"], row["keypoint_error_local_mm"]
        assert isinstance(success, float)
        return success, -error if isinstance(error, float) else -np.inf

    kept = ("clip", "success_rate", "mean_survival_s", "mean_possible_s", "keypoint_error_local_mm", "episodes")
    return [{key: row[key] for key in kept} for row in sorted(clips, key=rank)[:count]]


def _in_batches(
    policy: Policy,
    task: TrackingTask,
    frames: Int[np.ndarray, " episode"],
    horizon: int,
    threads: int,
    noise: bool,
    seed: int,
    *,
    complete: bool = True,
    model: Model | None = None,
) -> Outcome:
    """Roll out as many robots at once as memory and caches like."""
    if not len(frames):
        raise UserError("there is nothing to roll out: no starts")
    outcomes, starts = [], np.random.default_rng(seed)
    for number, part in enumerate(np.array_split(frames, -(-len(frames) // _BATCH))):
        generator = np.random.default_rng((seed, number))  # of what differs between robots, if anything does
        env = BatchedTracking(task, worlds=len(part), threads=threads, generator=generator, model=model)
        place(env, part, starts if noise else None)
        outcomes.append(roll_out(policy, env, horizon, complete=complete))
        env.close()
    return joined(outcomes)


def _groups(outcome: Outcome, names: np.ndarray, kind: str, hz: float, horizon: int, seed: int) -> list[Summary]:
    """Summarise the episodes of every name, in order of appearance."""
    return [
        {kind: str(name), **_summary(outcome, names == name, hz, horizon, seed)}
        for name in dict.fromkeys(names.tolist())
    ]


def _summary(outcome: Outcome, rows: Bool[np.ndarray, " episode"], hz: float, horizon: int, seed: int) -> Summary:
    episodes = int(rows.sum())
    one = np.ones(episodes)
    possible = outcome.possible[rows]
    values: Summary = {
        "mean_possible_s": float(possible.mean()) / hz,
        "full_length_share": float((possible >= horizon).mean()),
    }
    intervals: Intervals = {}
    rules = (outcome.failed, outcome.failed_keypoint, outcome.failed_keypoint_world)
    for name, failed in zip(RATES, rules, strict=True):
        successes = int((~failed[rows]).sum())
        values[name], intervals[name] = successes / episodes, wilson_interval(successes, episodes)
    pairs = {"mean_survival_s": (outcome.steps[rows] / hz, one)}
    pairs |= {name: (outcome.sums[name][rows], outcome.weights[name][rows]) for name in outcome.sums}
    for name, (above, below) in pairs.items():
        mean = ratio(above, below)
        values[name] = mean if np.isfinite(mean) else None
        intervals[name] = bootstrap_interval(above, below, seed=seed)
    return {**values, "episodes": episodes, "intervals_95": intervals}
