"""Small trainers for tests."""

import torch

from motionlex.motion_vae.contract import OptimisationConfig
from motionlex.motion_vae.registry import build_model, get_preset, override
from motionlex.motion_vae.trainer import Trainer
from motionlex.motion_vae.trajectories.domain import TrajectoryDomain


class Noise:
    """Batches of noise."""

    def sample(self, batch, generator):
        return torch.randn(batch, 4, 5, generator=generator)


def small_trainer(method, *settings, source=None, validate=None, dtype=torch.float32, **optimisation):
    settings = ("width=16", "heads=2", "layers=1", "generator_layers=1", "vocabulary=8", *settings)
    model = build_model(
        method, override(get_preset(method, "small"), settings).method, TrajectoryDomain(frames=4, features=5), seed=0
    )
    return Trainer(
        model.to(dtype), source or Noise(), OptimisationConfig(**{"batch": 64, **optimisation}), schedule_steps=10,
        seed=0, device=torch.device("cpu"), validate=validate,
    )  # fmt: skip
