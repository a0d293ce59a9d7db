"""Flags of ``motionlex evaluate-stack``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from motionlex.envs.randomisation import Preset

Stage = Literal["data", "reconstruction", "generated", "simulated", "tracking", "all"]


@dataclass(frozen=True, kw_only=True)
class EvaluateStackFlags:
    """Evaluate a bundle (or, with --stage tracking, a run of train_lowlevel) stage by stage."""

    stage: Stage = "all"
    """data, reconstruction, generated, simulated, tracking, or all of them."""
    data: str | None = None
    """Data set; None takes the one of the bundle."""
    data_root: Path | None = None
    """Folder of the data set; None reads the data set's environment variable."""
    prompts: int = 2
    """Held-out captions per action."""
    prompt_seconds: float = 5.0
    """Duration of one prompt [s]."""
    split: Literal["validation", "train"] = "validation"
    """Clips for --stage tracking, unless the run names its own clips."""
    survival_rollouts: int = 10
    """Rollouts of 30 s with a new command every 5 s; 0 leaves them out."""
    path_repeats: int = 1
    """Takes of each of the three desired paths, with other draws of the codes."""
    switches: int = 0
    """Ordered pairs of actions that are simulated, from one into the other; more than there are takes all, 0 none."""
    sensitivity: bool = True
    """Simulate shuffled and empty texts as well, and ask for what the library does not hold."""
    evaluator: tuple[Path, ...] = ()
    """Runs of motionlex train-evaluator, one per seed; none takes those shipped for the data set."""
    clips: tuple[str, ...] = ()
    """Clips for --stage tracking, e.g. walk1_subject5:10-20; none takes the run's own, else those of --split."""
    model: Path | None = None
    """MJCF file of the same robot for --stage tracking: its bodies and contacts, our motors; None takes our model."""
    policy: Path | None = None
    """File of motionlex export that acts in place of the target's own weights under --stage tracking."""
    starts: int = 3
    """Starts of --stage tracking per stretch of motion, evenly spaced."""
    spread: int | None = None
    """So many starts of --stage tracking in place of --starts, spread evenly over all motions as the scores of
    train_lowlevel are: over the first half second of a clip of 10 s."""
    repeats: int = 1
    """Rollouts per start, spread over half a second where that leaves --seconds: a clip of 10 s has one start. With
    --spread all from the very frame, which only --noise or --randomise makes different."""
    noise: bool = False
    """Perturb the starts of --stage tracking as in training."""
    randomise: Preset = "none"
    """How much robot, floor, delay and sensors differ from rollout to rollout of --stage tracking."""
    seconds: float | None = None
    """Longest rollout of --stage tracking [s]; 10, with --plans 30."""
    plans: int = 0
    """Follow so many plans of the high-level policy under --stage tracking, a new command every 5 s, in place of clips;
    in half of the plans walking commands also say how fast to go and where to turn. At least 20 make sense."""
    out: Path | None = None
    """Folder for the report of --stage all (report.json, report.md, figures, and tracking/) or of --stage tracking
    (tracking.json, .md and .png, and curves.png of a run's training)."""
    seed: int = 0
    """Seed of codes (under --stage tracking draws that training has not seen), order of commands, noise, bootstrap."""
    threads: int = 1
    """Threads of torch."""
    json: bool = False
    """Print one JSON object as the last line of stdout."""
