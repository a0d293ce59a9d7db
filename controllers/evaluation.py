"""Stage-wise evaluation of the stack: data, reconstruction, generated, simulated; one judge for all stages."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float

from motionlex.controllers.bundle import Bundle
from motionlex.controllers.com_path import ComPath
from motionlex.controllers.conditions import WINDOW
from motionlex.controllers.episode import TimedCommand, heading_change_deg, is_down, speeds
from motionlex.controllers.latent_data import REPLAN_FRAMES
from motionlex.controllers.latent_policy import SamplingConfig
from motionlex.controllers.motion_classifier import WINDOW_S, MotionClassifier, confusion, label_windows
from motionlex.controllers.planner import Planner
from motionlex.controllers.simulation import run_commands
from motionlex.controllers.stack import Stack
from motionlex.controllers.text import TextFunction
from motionlex.data import quaternion
from motionlex.data.captions import held_out_captions, training_captions
from motionlex.data.clip import MotionClip
from motionlex.data.features import features_to_state, to_heading
from motionlex.data.kinematics import ForwardKinematics
from motionlex.data.robots import get_robot
from motionlex.data.segments import SegmentSource, clip_features
from motionlex.motion_vae.checkpoint import TrainedAutoencoder
from motionlex.motion_vae.evaluation import evaluate as evaluate_autoencoder

logger = logging.getLogger(__name__)
Value = str | int | float | bool | None | Sequence[object] | Mapping[str, object]
FALLEN = "fallen"
"""What the judge says of a robot that lies where it should not."""


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """How much is simulated."""

    prompts_per_action: int = 2
    """Held-out captions per action."""
    prompt_s: float = 5.0
    """Duration of one prompt, the last two seconds are judged [s]."""
    survival_rollouts: int = 10
    """Rollouts of 30 s with a new command every 5 s."""
    path_s: float = 8.0
    """Duration of each desired path [s]."""
    seed: int = 0
    """Seed of codes and of the order of commands."""


def _prompts(actions: Sequence[str], count: int) -> list[tuple[str, str]]:
    """Pairs (action, held-out caption)."""
    return [(action, caption) for action in actions for caption in held_out_captions(action)[:count]]


def _shuffled_accuracy(pairs: Sequence[tuple[str, str]], rng: np.random.Generator, rounds: int = 200) -> float:
    """Accuracy when every motion is judged against the prompt of another, randomly chosen episode."""
    wanted, got = (np.array(column) for column in zip(*pairs, strict=True))
    return float(np.mean([np.mean(rng.permutation(wanted) == got) for _ in range(rounds)]))


def _mean_measurements(rows: Sequence[tuple[str, dict[str, float]]]) -> dict[str, Value]:
    """Average measurements per action."""
    table: dict[str, Value] = {}
    for action in sorted({name for name, _ in rows}):
        mine = [values for name, values in rows if name == action]
        table[action] = {key: float(np.mean([values[key] for values in mine])) for key in mine[0]}
    return table


def basic_measurements(qpos: Float[np.ndarray, "frame coordinate"], hz: float) -> dict[str, float]:
    """Measure what a person would look at first: speed [m/s], turning [deg/s], height range [m]."""
    speed, forward = speeds(qpos, hz)
    return {
        "speed_mps": speed,
        "forward_speed_mps": forward,
        "yaw_rate_dps": heading_change_deg(qpos) * hz / max(len(qpos) - 1, 1),
        "height_range_m": float(np.ptp(qpos[:, 2])),
    }


def evaluate_data(judge: MotionClassifier, clips: Sequence[MotionClip]) -> dict[str, Value]:
    """Judge the held-out recordings themselves: the ceiling of every later stage."""
    measurements, labels = label_windows(clips)
    rows = [
        (span.label, basic_measurements(clip.qpos[span.start : span.stop], clip.hz))
        for clip in clips
        for span in clip.labels
    ]
    return {
        "accuracy": judge.accuracy(measurements, labels),
        "windows": float(len(labels)),
        "measurements": _mean_measurements(rows),
    }


def reconstruct(
    autoencoder: TrainedAutoencoder, clip: MotionClip, kinematics: ForwardKinematics, generator: torch.Generator
) -> MotionClip:
    """Send a clip through the codes as the stack would: a segment every 16 frames, each placed where the last led.

    Args:
        autoencoder: Encodes and decodes.
        clip: Motion without glitches.
        kinematics: Of the robot.
        generator: Source of the codes.

    Returns:
        The decoded clip with the same labels; frames that fill no segment are left out.
    """
    world = clip_features(clip, kinematics)
    starts = np.arange(0, clip.frames - WINDOW + 1, REPLAN_FRAMES)
    local, _ = to_heading(world[starts[:, None] + np.arange(WINDOW)])
    x = torch.from_numpy(autoencoder.statistics.standardise(local)).float()
    decoded = autoencoder.decode_features(autoencoder.encode_features(x, generator)).astype(np.float64)
    xy, yaw, parts = clip.qpos[0, :2], quaternion.yaw(clip.qpos[:1, 3:7]), []
    for features in decoded:
        qpos, _ = features_to_state(features[None], hz=clip.hz, start_xy=xy[None], start_yaw=yaw)
        parts.append(qpos[0, :REPLAN_FRAMES])
        xy, yaw = qpos[0, REPLAN_FRAMES, :2], quaternion.yaw(qpos[:, REPLAN_FRAMES, 3:7])
    motion = np.concatenate(parts)
    spans = tuple(replace(span, stop=min(span.stop, len(motion))) for span in clip.labels if span.start < len(motion))
    return MotionClip(name=clip.name, qpos=motion, hz=clip.hz, labels=spans)


def evaluate_reconstruction(
    bundle: Bundle, judge: MotionClassifier, clips: Sequence[MotionClip], *, seed: int
) -> dict[str, Value]:
    """Measure the autoencoder on held-out clips, and judge what is left of their actions after the codes."""
    kinematics = ForwardKinematics(get_robot(bundle.meta.robot))
    source = SegmentSource(clips, bundle.autoencoder.statistics, kinematics=kinematics)
    result = evaluate_autoencoder(
        bundle.autoencoder, source, kinematics,
        batches=5, batch=200, keypoint_segments=400, seed=seed, device=torch.device("cpu"),
    )  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    whole = [clip for clip in clips if clip.valid is None or bool(clip.valid.all())]
    decoded = [reconstruct(bundle.autoencoder, clip, kinematics, generator) for clip in whole]
    numbers = {name: float(value) for name, value in result.items() if isinstance(value, (int, float))}
    return {**numbers, **evaluate_data(judge, decoded)}


def plan_motion(planner: Planner, text: torch.Tensor, seconds: float, hz: float) -> Float[np.ndarray, "frame 26"]:
    """Plan without physics: the executed halves of consecutive segments, one after the other."""
    parts = []
    for _ in range(max(1, round(seconds * hz / REPLAN_FRAMES))):
        parts.append(planner.replan(text).qpos[:REPLAN_FRAMES])
        planner.commit(REPLAN_FRAMES)
    return np.concatenate(parts)


def evaluate_generated(
    bundle: Bundle, judge: MotionClassifier, encode: TextFunction, config: EvaluationConfig
) -> dict[str, Value]:
    """Judge plans of held-out prompts, before any physics."""
    robot = get_robot(bundle.meta.robot)
    kinematics = ForwardKinematics(robot)
    hz = bundle.meta.hz
    start = np.concatenate([[0.0, 0.0, robot.standing_height, 1.0, 0.0, 0.0, 0.0], robot.default_pose])
    planner = Planner(
        bundle.autoencoder, bundle.latent_policy, kinematics,
        hz=hz, sampling=SamplingConfig(**bundle.meta.sampling), generator=torch.Generator().manual_seed(config.seed),
    )  # fmt: skip
    pairs, rows = [], []
    for action, caption in _prompts(judge.labels, config.prompts_per_action):
        planner.reset(start)
        qpos = plan_motion(planner, encode([caption])[0], config.prompt_s, hz)
        judged = qpos[-round(WINDOW_S * hz) :]
        pairs.append((action, judge.classify(judged, hz)))
        rows.append((action, basic_measurements(qpos, hz)))
    return {**_scores(pairs, judge, config.seed), "measurements": _mean_measurements(rows)}


def _scores(pairs: Sequence[tuple[str, str]], judge: MotionClassifier, seed: int) -> dict[str, Value]:
    return {
        "paraphrase_accuracy": float(np.mean([wanted == got for wanted, got in pairs])),
        "shuffled_accuracy": _shuffled_accuracy(pairs, np.random.default_rng(seed)),
        "chance": 1.0 / len(judge.labels),
        "action_confusion": {wanted: dict(row) for wanted, row in confusion(pairs).items()},
    }


def evaluate_simulated(
    bundle: Bundle, judge: MotionClassifier, encode: TextFunction, config: EvaluationConfig
) -> dict[str, Value]:
    """Judge the simulated robot: held-out prompts, switches, survival and a desired path.

    Returns:
        ``paraphrase_accuracy`` (share of held-out captions whose last two seconds are recognised),
        ``shuffled_accuracy`` (the same against the captions of other episodes), ``chance``, ``survival_30s`` (share of
        rollouts of 30 s with a new command every 5 s without a fall), ``switch_accuracy`` (share of those commands that
        are recognised), ``com_path_error_m``, ``action_confusion`` and mean measurements.
    """

    def new_stack(seed: int) -> Stack:
        return Stack(bundle, seed=config.seed + seed, encode=encode)

    pairs, rows, falls = [], [], 0
    window = round(WINDOW_S * bundle.meta.hz)
    for number, (action, caption) in enumerate(_prompts(judge.labels, config.prompts_per_action)):
        run = run_commands(new_stack(number), iter([TimedCommand(text=caption, seconds=config.prompt_s)]))
        falls += run.fell
        down = run.fell or is_down(run.qpos[-1])
        pairs.append((action, FALLEN if down else judge.classify(run.qpos[-window:], run.hz)))
        rows.append((action, basic_measurements(run.qpos, run.hz)))
        logger.info("%-16s %-50s -> %s", action, caption[:50], pairs[-1][1])
    survival, switched = _survival(judge, new_stack, config)
    return {
        **_scores(pairs, judge, config.seed),
        "falls": float(falls),
        "survival_30s": survival,
        "switch_accuracy": switched,
        "com_path_error_m": com_path_error(new_stack, config.path_s),
        "measurements": _mean_measurements(rows),
    }


def _survival(
    judge: MotionClassifier, new_stack: Callable[[int], Stack], config: EvaluationConfig
) -> tuple[float | None, float | None]:
    """Share of 30 s rollouts without a fall, and share of their commands that are recognised after the switch."""
    if config.survival_rollouts < 1:
        return None, None
    rng = np.random.default_rng(config.seed)
    survived, recognised = [], []
    for rollout in range(config.survival_rollouts):
        actions = rng.choice(judge.labels, size=6)
        stack = new_stack(1000 + rollout)
        window = round(WINDOW_S * stack.hz)
        for action in actions:
            command = TimedCommand(text=training_captions(str(action))[0], seconds=5.0)
            run = run_commands(stack, iter([command]))
            got = FALLEN if run.fell else judge.classify(run.qpos[-window:], run.hz)
            recognised.append(got == action)
        survived.append(not stack.fell)
        logger.info("30 s of %s: %s", ", ".join(actions), "survived" if survived[-1] else "fell")
    return float(np.mean(survived)), float(np.mean(recognised))


def com_path_error(new_stack: Callable[[int], Stack], seconds: float) -> float:
    """Follow three desired paths (straight, left arc, right arc) while walking and measure the distance to them.

    Args:
        new_stack: Makes a stack from a seed.
        seconds: Duration of each path [s].

    Returns:
        Mean distance of the measured centre of mass from where it should be at that time [m].
    """
    errors = []
    for number, turn in enumerate((0.0, 0.2, -0.2)):
        stack = new_stack(2000 + number)
        path = arc_path(0.6, turn, seconds)
        stack.follow(path)
        stack.command("walk forward")
        distances = []
        for _ in range(round(seconds * stack.hz)):
            stack.step()
            wanted = path.at(np.array([stack.time]))[0][0] + stack.start_com
            distances.append(float(np.linalg.norm(stack.com - wanted)))
        errors.append(float(np.mean(distances)))
    return float(np.mean(errors))


def arc_path(speed: float, turn: float, seconds: float, start_s: float = 1.0) -> ComPath:
    """Stand for ``start_s``, then move at ``speed`` [m/s] while turning at ``turn`` [rad/s]."""
    time = np.arange(0.0, seconds + 2.0, 0.05)
    moving = np.maximum(time - start_s, 0.0)
    yaw = turn * moving
    if abs(turn) < 1e-9:
        xy = np.stack([speed * moving, np.zeros_like(moving)], axis=1)
    else:
        xy = speed / turn * np.stack([np.sin(yaw), 1.0 - np.cos(yaw)], axis=1)
    return ComPath(time=time, xy=xy, yaw=yaw)
