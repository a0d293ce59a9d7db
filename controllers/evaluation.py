"""Stages of the evaluation without physics: data, reconstruction, generated; one jury for all stages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from motionlex.controllers.bundle import Bundle
from motionlex.controllers.code_sampling import SamplingConfig
from motionlex.controllers.conditions import WINDOW
from motionlex.controllers.episode import heading_change_deg, speeds
from motionlex.controllers.evaluation_paths import TURNS, WALKING_MPS, WORDS, arc_path, path_report, plan_path
from motionlex.controllers.evaluation_scores import Jury, Value, clip_of, score_takes, share
from motionlex.controllers.evaluation_takes import SETTLE_S, Take, cut_takes, paired_takes
from motionlex.controllers.latent_data import REPLAN_FRAMES
from motionlex.controllers.motion_classifier import MotionClassifier, confusion, label_windows
from motionlex.controllers.planner import Planner
from motionlex.controllers.progress import ProgressLine
from motionlex.controllers.text import TextFunction
from motionlex.data import quaternion
from motionlex.data.captions import held_out_captions
from motionlex.data.clip import MotionClip
from motionlex.data.features import features_to_state, to_heading
from motionlex.data.inspection import stretches
from motionlex.data.kinematics import ForwardKinematics
from motionlex.data.robots import get_robot
from motionlex.data.segments import SegmentSource, clip_features
from motionlex.motion_vae.checkpoint import TrainedAutoencoder
from motionlex.motion_vae.evaluation import evaluate as evaluate_autoencoder


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """How much is planned and simulated."""

    prompts_per_action: int = 2
    """Held-out captions per action."""
    prompt_s: float = 5.0
    """Duration of one prompt, the last two seconds are judged [s]."""
    survival_rollouts: int = 10
    """Rollouts of 30 s with a new command every 5 s."""
    path_s: float = 8.0
    """Duration of each desired path [s]."""
    path_repeats: int = 1
    """Takes of each of the three desired paths."""
    sensitivity: bool = False
    """Whether shuffled, empty and foreign prompts are given as well."""
    switches: int = 0
    """Ordered pairs of actions that are simulated, from one into the other."""
    seed: int = 0
    """Seed of codes and of the order of commands."""


def choose_prompts(actions: Sequence[str], count: int) -> list[tuple[str, str]]:
    """Pairs (action, held-out caption); the same ones at every stage."""
    return [(action, caption) for action in actions for caption in held_out_captions(action)[:count]]


def permuted_accuracy(pairs: Sequence[tuple[str, str]], rng: np.random.Generator, rounds: int = 200) -> float:
    """Accuracy when every motion is judged against the prompt of another, randomly chosen episode."""
    wanted, got = (np.array(column) for column in zip(*pairs, strict=True))
    return float(np.mean([np.mean(rng.permutation(wanted) == got) for _ in range(rounds)]))


def prompt_scores(pairs: Sequence[tuple[str, str]], judge: MotionClassifier, seed: int) -> dict[str, Value]:
    """Score (wanted, recognised) pairs of prompts."""
    right = share([wanted == got for wanted, got in pairs])
    return {
        "paraphrase_accuracy": right["mean"],
        "paraphrase_accuracy_interval_95": right["interval_95"],
        "shuffled_accuracy": permuted_accuracy(pairs, np.random.default_rng(seed)),
        "chance": 1.0 / len(judge.labels),
        "prompts": float(len(pairs)),
        "action_confusion": confusion(pairs),
    }


def mean_measurements(rows: Sequence[tuple[str, dict[str, float]]]) -> dict[str, Value]:
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


def _judge_clips(judge: MotionClassifier, clips: Sequence[MotionClip]) -> dict[str, Value]:
    """Judge every window of labelled clips."""
    measurements, labels = label_windows(clips)
    rows = [
        (span.label, basic_measurements(clip.qpos[span.start : span.stop], clip.hz))
        for clip in clips
        for span in clip.labels
    ]
    return {
        "accuracy": judge.accuracy(measurements, labels),
        "windows": float(len(labels)),
        "measurements": mean_measurements(rows),
    }


def evaluate_data(jury: Jury, clips: Sequence[MotionClip]) -> dict[str, Value]:
    """Judge the held-out recordings themselves: the ceiling of every later stage.

    Their Frechet distance is that of one half of them to the other: the floor of every later stage.
    """
    scores = score_takes(jury, cut_takes(clips, jury.longest_s), floor=True)
    return {**_judge_clips(jury.judge, clips), "scores": scores}


def reconstruct(
    autoencoder: TrainedAutoencoder, clip: MotionClip, kinematics: ForwardKinematics, generator: torch.Generator
) -> MotionClip:
    """Send a clip through the codes as the stack would: a segment every 16 frames, each placed where the last led.

    Departure from the stack: the last segment ends with the clip and is played whole, so that no frame is left out.

    Args:
        autoencoder: Encodes and decodes.
        clip: Motion without glitches, at least one segment long.
        kinematics: Of the robot.
        generator: Source of the codes.

    Returns:
        The decoded clip, with as many frames and the same labels.
    """
    world = clip_features(clip, kinematics)
    last = clip.frames - WINDOW
    starts = np.append(np.arange(0, last, REPLAN_FRAMES), last)
    local, _ = to_heading(world[starts[:, None] + np.arange(WINDOW)])
    x = torch.from_numpy(autoencoder.statistics.standardise(local)).float()
    decoded = autoencoder.decode_features(autoencoder.encode_features(x, generator)).astype(np.float64)
    xy, yaw, parts = clip.qpos[0, :2], quaternion.yaw(clip.qpos[:1, 3:7]), []
    for features, played in zip(decoded, np.diff(starts, append=clip.frames), strict=True):
        qpos, _ = features_to_state(features[None], hz=clip.hz, start_xy=xy[None], start_yaw=yaw)
        parts.append(qpos[0, :played])
        following = min(int(played), WINDOW - 1)  # nothing follows the last segment
        xy, yaw = qpos[0, following, :2], quaternion.yaw(qpos[:, following, 3:7])
    return MotionClip(name=clip.name, qpos=np.concatenate(parts), hz=clip.hz, labels=clip.labels)


def reconstruct_clean(
    autoencoder: TrainedAutoencoder, clip: MotionClip, kinematics: ForwardKinematics, generator: torch.Generator
) -> MotionClip:
    """Reconstruct every clean stretch of a clip that holds a segment, each from where the recording has it.

    Args:
        autoencoder: Encodes and decodes.
        clip: Motion, with glitches masked.
        kinematics: Of the robot.
        generator: Source of the codes.

    Returns:
        A clip with the same frames and labels; what was not reconstructed is as it was, and masked. Since a take is
        longer than a segment, the takes of both clips are the same.
    """
    assert clip.valid is not None
    qpos, done = np.array(clip.qpos), np.zeros(clip.frames, dtype=bool)
    for start, stop in stretches(clip.valid):
        if stop - start >= WINDOW:
            part = clip.slice(start, stop)
            qpos[start:stop] = reconstruct(autoencoder, part, kinematics, generator).qpos
            done[start:stop] = True
    return MotionClip(name=clip.name, qpos=qpos, hz=clip.hz, labels=clip.labels, valid=done)


def evaluate_reconstruction(bundle: Bundle, jury: Jury, clips: Sequence[MotionClip], *, seed: int) -> dict[str, Value]:
    """Measure the autoencoder on held-out clips, and judge what is left of their takes after the codes."""
    kinematics = ForwardKinematics(jury.robot)
    source = SegmentSource(clips, bundle.autoencoder.statistics, kinematics=kinematics)
    result = evaluate_autoencoder(
        bundle.autoencoder, source, kinematics,
        batches=5, batch=200, keypoint_segments=400, seed=seed, device=torch.device("cpu"),
    )  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    decoded = [reconstruct_clean(bundle.autoencoder, clip, kinematics, generator) for clip in clips]
    numbers = {name: float(value) for name, value in result.items() if isinstance(value, (int, float))}
    takes = paired_takes(list(zip(clips, decoded, strict=True)), jury.longest_s)
    return {**numbers, **_judge_clips(jury.judge, decoded), "scores": score_takes(jury, takes)}


def plan_motion(planner: Planner, text: torch.Tensor, seconds: float, hz: float) -> Float[np.ndarray, "frame 26"]:
    """Plan without physics: the executed halves of consecutive segments, one after the other."""
    parts = []
    for _ in range(max(1, round(seconds * hz / REPLAN_FRAMES))):
        parts.append(planner.replan(text).qpos[:REPLAN_FRAMES])
        planner.commit(REPLAN_FRAMES)
    return np.concatenate(parts)


def evaluate_generated(bundle: Bundle, jury: Jury, encode: TextFunction, config: EvaluationConfig) -> dict[str, Value]:
    """Judge plans of held-out prompts and along desired paths, before any physics."""
    robot = get_robot(bundle.meta.robot)
    hz = bundle.meta.hz
    start = np.concatenate([[0.0, 0.0, robot.standing_height, 1.0, 0.0, 0.0, 0.0], robot.default_pose])
    kinematics = ForwardKinematics(robot)
    planner = Planner(
        bundle.autoencoder, bundle.latent_policy, kinematics,
        hz=hz, sampling=SamplingConfig(**bundle.meta.sampling), generator=torch.Generator().manual_seed(config.seed),
    )  # fmt: skip
    prompts = choose_prompts(jury.judge.labels, config.prompts_per_action)
    seconds = math.ceil(config.prompt_s * hz / REPLAN_FRAMES) * REPLAN_FRAMES / hz  # a window of 2 s must fit
    takes, progress = [], ProgressLine(len(prompts), "planned prompt")
    for action, caption in prompts:
        planner.reset(start)
        qpos = plan_motion(planner, encode([caption])[0], seconds, hz)
        takes.append(Take(action=action, name=caption, clip=clip_of(caption, qpos, hz), settle_s=SETTLE_S))
        progress.advance()
    followed = []
    for turn in TURNS * config.path_repeats:
        planner.reset(start)
        path = arc_path(WALKING_MPS, turn, config.path_s).limited(bundle.autoencoder.statistics)
        followed.append(plan_path(planner, kinematics, path, encode([WORDS])[0], config.path_s))
    return {
        "paths": path_report(followed, [False] * len(followed), hz, seed=config.seed),
        **prompt_scores([(take.action, jury.recognise(take)) for take in takes], jury.judge, config.seed),
        "measurements": mean_measurements([(take.action, basic_measurements(take.clip.qpos, hz)) for take in takes]),
        "scores": score_takes(jury, takes),
    }
