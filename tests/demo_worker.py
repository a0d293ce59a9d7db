"""One run of `make demo`'s commands, in a process of its own."""

import torch

from motionlex.controllers.bundle import builtin_bundle, bundle_encoder, load_bundle
from motionlex.controllers.episode import TimedCommand
from motionlex.controllers.simulation import run_commands
from motionlex.controllers.stack import Stack


def outcome(seed):
    """No fall, still while standing, walking over 0.3 m/s, turning to the left over 30 deg."""
    torch.set_num_threads(1)
    bundle = load_bundle(builtin_bundle())
    commands = [TimedCommand(text=t, seconds=5.0) for t in ("stand still", "walk forward", "turn left", "wave")]
    run = run_commands(Stack(bundle, seed=seed, encode=bundle_encoder(bundle).encode), iter(commands))
    stand, walk, turn, _ = run.commands
    moved = stand.mean_speed_mps < 0.1 and walk.forward_speed_mps > 0.3 and turn.heading_change_deg > 30.0
    return "fell" if run.fell else "good" if moved else "wrong motion"
