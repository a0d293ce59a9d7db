"""Flags of ``train_lowlevel``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from motionlex.envs.randomisation import Preset
from motionlex.envs.task_config import Goal, Reward


@dataclass(frozen=True, kw_only=True)
class LowLevelFlags:
    """Train a policy that follows motions of the robot (PPO)."""

    env: str = "h1"
    """Robot."""
    data: str = "builtin"
    """Data set: builtin, lafan1 or loco_mujoco."""
    data_root: Path | None = None
    """Folder of the data set; None reads the data set's environment variable."""
    clips: tuple[str, ...] = ()
    """Clips, each with an optional part in seconds, e.g. walk1_subject5:10-20; none takes the training split."""
    vae: Path | None = None
    """Run of train_motion_vae; needed for --goal decoded and latent."""
    code_draws: int | None = None
    """Draws of the codes of every segment to train on; None takes 4 (1 for --goal reference, which has no codes)."""
    generated: Path | None = None
    """Bundle (builtin is the shipped one) or run of train-highlevel whose own motions are trained on as well."""
    generated_minutes: float | None = None
    """Duration of those motions [min]; None takes 28: each of the 20 built-in actions follows each other one once."""
    generated_share: float | None = None
    """Share of the episodes that start in those motions; None takes 0.5."""
    goal: Goal = "reference"
    """What the policy is told: data-set frames, decoded frames, or codes."""
    control: Literal["pd", "torque"] | None = None
    """Position servos (None under preset small) or torques (None under preset paper)."""
    reward: Reward = "deepmimic"
    """Reward."""
    hz: float | None = None
    """Control and frame rate [1/s]; None takes that of the preset."""
    preset: Literal["small", "paper"] = "small"
    """Recipe: small (two CPU cores, 50 Hz) or paper (DAPS appendix K, 100 Hz, torques)."""
    backend: Literal["cpu", "warp"] = "cpu"
    """Physics: mujoco.rollout threads, or MuJoCo Warp on a GPU (--device cuda; the extra "warp")."""
    steps: int | None = None
    """Total control steps over all robots to reach; None takes those of the preset or of the run."""
    worlds: int | None = None
    """Robots simulated at once; None takes those of the preset."""
    processes: int | None = None
    """Processes that share the robots; None takes one per core, or one when --threads or OMP_NUM_THREADS is given."""
    threads: int | None = None
    """Threads of physics and torch per process; None takes OMP_NUM_THREADS, else the cores over the processes."""
    prepare: bool | None = None
    """Smooth the motions (20 ms) and set them on the floor; None does so for lafan1 only."""
    randomise: Preset = "none"
    """How much robot, floor, delay and sensors differ from episode to episode: none, light or heavy (with kicks)."""
    push: float | None = None
    """Largest horizontal velocity kick [m/s], about every 3 s (heavy: 5 s); None takes that of --randomise."""
    init: Path | None = None
    """Run or policy folder whose weights (normaliser included) are the start."""
    teacher: Path | None = None
    """Run of goal reference or decoded that a latent policy imitates (DAgger) before PPO begins. Checkpoints on the way
    hold up to 235 MB per process (the memory of 400,000 states), which go when PPO has begun."""
    distill_steps: int | None = None
    """Control steps of that imitation; None takes 2,000,000."""
    seed: int = 0
    """Seed of weights, starts, noise and exploration."""
    device: str = "cpu"
    """Torch device."""
    resume: Path | None = None
    """Run folder to continue. With it go --steps, --threads, --processes, --device, --data-root, --json,
    --checkpoint-s, --evaluate, --evaluate-every and --target-success; other flags must be as the run has them."""
    out: Path | None = None
    """New run folder; None makes runs/lowlevel_<data>_<goal>_<preset>_<seed>."""
    checkpoint_s: float = 180.0
    """Seconds between two checkpoints."""
    evaluate_every: int | None = None
    """Control steps between two scores (success, error) of the policy without noise, 0 for none; None: as the run to
    resume has it, else 150,000 with --target-success and a twentieth of --steps, at least 250,000, without."""
    target_success: float | None = None
    """Stop once this success rate is reached in three scores in a row; None: as the resumed run has it, else never."""
    set: tuple[str, ...] = ()
    """Settings of the preset to change, e.g. --set horizon=16 residual_scale=0.2 weights.joint=0.3."""
    evaluate: bool = True
    """Measure tracking at the end."""
    json: bool = False
    """Print one JSON object as the last line of stdout."""
