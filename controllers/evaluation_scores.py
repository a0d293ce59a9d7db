"""What is measured on the takes of every stage alike: recognition, distance to real motion, errors, sliding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from motionlex.controllers.evaluation_takes import Take
from motionlex.controllers.frechet import Sample, compare
from motionlex.controllers.intervals import bootstrap_interval, ratio, wilson_interval
from motionlex.controllers.motion_classifier import MotionClassifier
from motionlex.controllers.motion_evaluator import MotionEvaluator, ranks
from motionlex.controllers.tracking_metrics import key_point_errors
from motionlex.data.clip import MotionClip
from motionlex.data.robots import Robot
from motionlex.envs.kinematics import SiteKinematics
from motionlex.envs.rewards import BodyState
from motionlex.envs.soles import Soles

Value = str | int | float | bool | None | Sequence[object] | Mapping[str, object]
FALLEN = "fallen"
"""What the judge says of a robot that lies where it should not."""


@dataclass(frozen=True, kw_only=True)
class Jury:
    """Everything that judges motion; the same at every stage."""

    judge: MotionClassifier
    """Linear judge, fitted to the training clips."""
    robot: Robot
    """Whose motion it is."""
    evaluators: tuple[MotionEvaluator, ...] = ()
    """Text-motion evaluators, one per seed; none leaves recall, Frechet distance and diversity out."""
    real: tuple[Take, ...] = ()
    """Held-out recordings, with which motion is compared."""
    longest_s: float = 5.0
    """Length of takes that recordings are cut into [s]: that of the prompts."""
    draws: int = 100
    """Draws behind the intervals of Frechet distance and diversity, per evaluator."""
    seed: int = 0
    """Seed of those draws."""

    def recognise(self, take: Take) -> str:
        """Name the action of a take's last window, or ``FALLEN``."""
        return FALLEN if take.down else self.judge.classify(take.last_window, take.clip.hz)


def share(hits: Sequence[bool]) -> dict[str, Value]:
    """Return a rate with its 95 % Wilson interval."""
    count = int(np.sum(hits))
    if not len(hits):
        return {"mean": None, "interval_95": None, "count": 0}
    return {"mean": count / len(hits), "interval_95": list(wilson_interval(count, len(hits))), "count": len(hits)}


def score_takes(jury: Jury, takes: Sequence[Take], *, floor: bool = False) -> dict[str, Value]:
    """Measure the takes of one stage.

    Args:
        jury: Who judges.
        takes: At least one.
        floor: Whether the takes are the held-out recordings themselves.

    Returns:
        ``takes``, ``take_names``, ``judge_accuracy``, ``recall_at_1/2/3`` (by the last window of each take),
        ``frechet_distance``, ``diversity``, errors against the reference (None without one), ``foot_sliding_mps`` and
        ``foot_contact_share``.
        Rates and distances come with ``mean`` and ``interval_95``, those of evaluators with one value per seed.
    """
    return {
        "takes": len(takes),
        "take_names": [take.name for take in takes],
        "actions": len({take.action for take in takes}),
        "judge_accuracy": share([jury.recognise(take) == take.action for take in takes]),
        **recall(jury, takes),
        **distances(jury, takes, floor=floor),
        **reference_errors(jury, takes),
        **foot_sliding(jury, takes),
    }


def recall(jury: Jury, takes: Sequence[Take]) -> dict[str, Value]:
    """Share of takes whose action is among the first k of all actions, by the cosine with the actions' prototypes.

    A fallen robot shows no action: its take is a miss at every k.
    """
    if not jury.evaluators:
        return {}
    found = np.array([take_ranks(evaluator, takes) for evaluator in jury.evaluators])
    rows: dict[str, Value] = {}
    for k in (1, 2, 3):
        hits = found < k
        seeds = hits.mean(axis=1)
        pooled = round(float(hits.mean()) * len(takes))  # the seeds judge the same takes: they add no trials
        rows[f"recall_at_{k}"] = {
            **_over_seeds(seeds),
            "interval_95": list(wilson_interval(pooled, len(takes))),
        }
    return rows


def take_ranks(evaluator: MotionEvaluator, takes: Sequence[Take]) -> Float[np.ndarray, " take"]:
    """Rank of each take's own action among all, 0 the nearest; infinity for a robot that lies."""
    embedded = np.concatenate([evaluator.embed_windows(take.clip, take.window_starts()[-1:]) for take in takes])
    wanted = np.array([evaluator.labels.index(take.action) for take in takes])
    down = np.array([take.down for take in takes])
    return np.where(down, np.inf, ranks(evaluator.similarity(embedded), wanted))


def distances(jury: Jury, takes: Sequence[Take], *, floor: bool) -> dict[str, Value]:
    """Frechet distance to the held-out recordings and diversity, in the space of each evaluator."""
    if not (jury.evaluators and jury.real):
        return {}
    columns: dict[str, list[list[float]]] = {"frechet_distance": [], "diversity": []}
    for evaluator in jury.evaluators:
        rng = np.random.default_rng(jury.seed)  # the same draws for every evaluator
        real = embed_takes(evaluator, jury.real)
        sample = real if floor else embed_takes(evaluator, takes)
        drawn = list(compare(sample, real, floor=floor, draws=jury.draws, rng=rng))
        columns["frechet_distance"].append([each.distance for each in drawn])
        columns["diversity"].append([each.diversity for each in drawn])
    rows: dict[str, Value] = {}
    for name, values in columns.items():
        table = np.array(values)
        low, high = np.percentile(table.mean(axis=0), [2.5, 97.5])
        rows[name] = {**_over_seeds(table.mean(axis=1)), "interval_95": [float(low), float(high)]}
    return rows


def embed_takes(evaluator: MotionEvaluator, takes: Sequence[Take]) -> Sample:
    """Embed all windows of takes."""
    parts = [evaluator.embed_windows(take.clip, take.window_starts()) for take in takes]
    lengths = [len(part) for part in parts]
    action = np.array([evaluator.labels.index(take.action) for take in takes])
    return Sample(
        features=np.concatenate(parts),
        action=np.repeat(action, lengths),
        take=np.repeat(np.arange(len(takes)), lengths),
    )


def reference_errors(jury: Jury, takes: Sequence[Take]) -> dict[str, Value]:
    """Mean errors of key points [mm] and joints [rad] over all frames of takes that have a reference."""
    kinematics = SiteKinematics(jury.robot)
    names = ("keypoint_error_global_mm", "keypoint_error_local_mm", "joint_error_rad")
    pairs = [(take.clip.qpos, take.reference) for take in takes if take.reference is not None]
    if not pairs:
        return dict.fromkeys(names)
    errors = [
        key_point_errors(_body(kinematics, np.asarray(qpos)), _body(kinematics, np.asarray(reference)))
        for qpos, reference in pairs
    ]
    frames = np.array([len(qpos) for qpos, _ in pairs], dtype=np.float64)
    return {
        name: _mean_row(np.array([each[column].sum() for each in errors]), frames, jury.seed)
        for column, name in enumerate(names)
    }


def _body(kinematics: SiteKinematics, qpos: Float[np.ndarray, "frame coordinate"]) -> BodyState:
    return BodyState(qpos=qpos, qvel=np.zeros((len(qpos), qpos.shape[1] - 1)), sites=kinematics(qpos))


def foot_sliding(jury: Jury, takes: Sequence[Take]) -> dict[str, Value]:
    """Mean horizontal speed of feet on the floor [m/s], and how often a foot is there."""
    kinematics, soles = SiteKinematics(jury.robot), Soles(jury.robot)
    speed, contact, feet = (np.zeros(len(takes)) for _ in range(3))
    for index, take in enumerate(takes):
        slide, touching = soles.sliding(kinematics.states(take.clip.qpos, take.clip.qvel()))
        speed[index] = np.where(touching, slide, 0.0).sum()
        contact[index], feet[index] = touching.sum(), touching.size
    return {
        "foot_sliding_mps": _mean_row(speed, contact, jury.seed),
        "foot_contact_share": _mean_row(contact, feet, jury.seed),
    }


def mean_row(values: Sequence[float], seed: int) -> dict[str, Value]:
    """Return the mean over takes with its bootstrap interval."""
    return _mean_row(np.asarray(values, dtype=np.float64), np.ones(len(values)), seed)


def _mean_row(sums: Float[np.ndarray, " take"], weights: Float[np.ndarray, " take"], seed: int) -> dict[str, Value]:
    ends = bootstrap_interval(sums, weights, seed=seed)
    return {"mean": ratio(sums, weights), "interval_95": None if ends is None else list(ends)}


def _over_seeds(values: Float[np.ndarray, " seed"]) -> dict[str, Value]:
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "spread": spread, "seeds": [float(value) for value in values]}


def clip_of(name: str, qpos: Float[np.ndarray, "frame coordinate"], hz: float) -> MotionClip:
    """Wrap positions that something made."""
    return MotionClip(name=name[:80], qpos=qpos, hz=hz)
