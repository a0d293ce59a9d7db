"""What tests/test_vae_distributed.py runs on one rank and on two: a program without pytest in it.

python distributed_worker.py FOLDER     (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT in the environment)
"""

import sys
from pathlib import Path

import torch

from motionlex.motion_vae import distributed
from motionlex.motion_vae.contract import OptimisationConfig
from motionlex.motion_vae.registry import build_model, get_preset, override
from motionlex.motion_vae.trainer import NonFiniteLossError, Trainer
from motionlex.motion_vae.trajectories.domain import TrajectoryDomain

CPU = torch.device("cpu")
DOMAIN = TrajectoryDomain(frames=4, features=5)
TINY = ("width=8", "heads=2", "layers=1", "generator_layers=1", "mlp_ratio=2", "vocabulary=6")
CASES = {
    "gradient_codebook": (
        "vqvae",
        ("codebook_update=gradient", "kmeans_start=false", "continuous=0", "replace_dead=never"),
    ),
    "moving_codebook": ("vqvae", ("codebook_update=ema", "kmeans_start=false", "continuous=0", "replace_dead=never")),
    "policy_search": ("daps", ("samples=3", "ess_target=0.5")),
}
BATCH = 64


class Noise:
    """Batches of float64 noise."""

    def sample(self, batch, generator):
        return torch.randn(batch, DOMAIN.frames, DOMAIN.features, generator=generator, dtype=torch.float64)


class PoisonedRows(Noise):
    """Not finite in the last row, which only the last rank keeps."""

    def sample(self, batch, generator):
        x = super().sample(batch, generator)
        x[-1] = torch.nan
        return x


def trainer(case, *, micro_batches=1, batch=BATCH, source=None, **changes):
    """Build a trainer in float64, so that the order of sums does not matter."""
    method, settings = CASES[case]
    model = build_model(method, override(get_preset(method, "small"), (*TINY, *settings)).method, DOMAIN, seed=0)
    config = OptimisationConfig(batch=batch, micro_batches=micro_batches, learning_rate=1e-2, **changes)
    return Trainer(model.double(), source or Noise(), config, schedule_steps=12, seed=7, device=CPU)


def codes_of_the_data(model, samples):
    """Replace q's draws by codes that depend on x alone, so that every cut of a batch sees the same ones."""
    memory = model.recognition.memory
    seen = []

    def remember(x):
        seen.append(x)
        return memory(x)

    def sample(_, count, generator):
        token, sample = torch.arange(model.tokens), torch.arange(count)[:, None]
        values = seen[-1][:, token // 2, (token + sample) % DOMAIN.features]
        return (values.abs() * 1000).long() % model.vocabulary, torch.zeros(values.shape[:2])

    model.recognition.memory, model.recognition.sample = remember, sample
    assert samples > 1


def gradients(case, micro_batches=1):
    """Return averaged gradients, buffers and logged values of one step without optimisers."""
    current = trainer(case, micro_batches=micro_batches)
    if case == "policy_search":
        current.steps = 11  # search has begun
        codes_of_the_data(current.model, current.model.config.samples)
    current.optimisers = ()
    logged = current.step()
    found = {name: p.grad for name, p in current.model.named_parameters() if p.grad is not None}
    return {"gradients": found, "buffers": dict(current.model.named_buffers()), "logged": logged}


def trained(case, steps, state=None):
    """Train with real draws through the warm start into the search; return the whole state."""
    current = trainer(case, batch=8)
    if state is not None:
        current.load_state(state)
    while current.steps < steps:
        current.step()
    return current.state()


def poisoned():
    """Meet a loss that is not finite on the last rank only."""
    current = trainer("gradient_codebook", source=PoisonedRows())
    before = [p.clone() for p in current.model.parameters()]
    try:
        current.step()
    except NonFiniteLossError as error:
        unchanged = all(torch.equal(a, b) for a, b in zip(before, current.model.parameters()))
        return {"batch": error.batch, "unchanged": unchanged and current.model.codebook.grad is None}
    return {}


def plateau():
    """Every rank has a score of its own; that of rank 0 counts."""
    changes = {"validation_steps": 1, "plateau_factor": 0.5, "plateau_patience": 0}
    current = trainer("gradient_codebook", batch=8, **changes)
    current.validate = lambda: -float(current.steps) if distributed.rank() == 0 else float(current.steps)
    for _ in range(3):
        current.step()
    return current.plateau.state()


def everything():
    """Run all cases on this rank."""
    return {
        "gradients": {case: gradients(case) for case in CASES},
        "micro_batches": gradients("gradient_codebook", micro_batches=2),
        "trained": {case: trained(case, 12) for case in CASES},
        "resumed": {case: trained(case, 12, trained(case, 9)) for case in CASES},
        "poisoned": poisoned(),
        "plateau": plateau(),
        "rows": distributed.own_rows(torch.arange(6.0)),
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    with distributed.process_group(CPU):
        torch.save(everything(), Path(sys.argv[1]) / f"rank{distributed.rank()}.pt")
