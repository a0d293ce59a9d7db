"""What tests/test_vae_distributed.py runs on one rank and on two: a program without pytest in it.

python distributed_worker.py FOLDER     (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT in the environment)
"""

import copy
import sys
from pathlib import Path
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode

from motionlex.motion_vae import codebooks, distributed
from motionlex.motion_vae.contract import OptimisationConfig
from motionlex.motion_vae.registry import build_model, get_preset, override
from motionlex.motion_vae.trainer import NonFiniteLossError, Trainer
from motionlex.motion_vae.trajectories.domain import TrajectoryDomain

CPU = torch.device("cpu")
DOMAIN = TrajectoryDomain(frames=4, features=5)
NETWORKS = "width=8 heads=2 layers=1 generator_layers=1 mlp_ratio=2"
CODES = f"{NETWORKS} vocabulary=6"
LADDER = "width=8 blocks=1 grid_tokens=4,2"
PLAIN = "kmeans_start=false continuous=0 replace_dead=never"
CASES = {  # what ranks share besides gradients
    "gradient_codebook": ("vqvae", f"{CODES} codebook_update=gradient {PLAIN}"),  # nothing
    "moving_codebook": ("vqvae", f"{CODES} codebook_update=ema {PLAIN}"),  # counts and sums
    "dead_codes": (  # k-means start, idle codes, the vectors that replace them
        "vqvae",
        f"{NETWORKS} vocabulary=24 codebook_update=gradient kmeans_start=true continuous=0 "
        "replace_dead=unused dead_steps=2 replace_every=3",
    ),
    "policy_search": (  # mean ESS; in the warm start first codes, counts and sums, the vectors of dead codes
        "daps",
        f"{NETWORKS} vocabulary=24 samples=3 ess_target=0.5 decay=0.1 replace_every=2",
    ),
    "eta_per_example": ("daps", f"{CODES} samples=3 ess_target=0.5 temperature_control=bisection"),  # its warm start
    "ppo": ("ppo", f"{CODES} samples=3 epochs=2 standardise=true"),  # mean square of the advantages
    "moving_baseline": ("reinforce", f"{CODES} samples=2 baseline=moving_average"),  # mean return
    "gm_vq": ("gm_vq", f"{CODES} gamma=1 kmeans_start=true"),  # k-means start, aggregated posterior
    "sq_vae": ("sq_vae", f"{CODES} kmeans_start=true dequantisation_noise=true"),  # k-means start, mean squared error
    "free_codes": ("rrvq", f"{LADDER} vocabulary=6 embedding_width=5 free_nats=0.1"),  # mean KL of every layer
    "free_gaussians": ("spatial_vae", f"{LADDER} latent_width=3 free_nats=0.1"),  # the same
    "fsq": ("fsq", f"{NETWORKS} levels=4,3"),  # nothing
    "gumbel_na": ("gumbel_na", CODES),  # nothing
}
BATCH = 64


class Noise:
    """Batches of float64 noise, which grows from row to row: ranks differ in every statistic."""

    def sample(self, batch, generator):
        x = torch.randn(batch, DOMAIN.frames, DOMAIN.features, generator=generator, dtype=torch.float64)
        return x * torch.linspace(0.2, 2.0, batch, dtype=x.dtype).view(-1, 1, 1)


class PoisonedRows(Noise):
    """Not finite in the last row, which only the last rank keeps."""

    def sample(self, batch, generator):
        x = super().sample(batch, generator)
        x[-1] = torch.nan
        return x


def trainer(case, *, micro_batches=1, batch=BATCH, source=None, **changes):
    """Build a trainer in float64, so that the order of sums does not matter."""
    method, settings = CASES[case]
    model = build_model(method, override(get_preset(method, "small"), settings.split()).method, DOMAIN, seed=0)
    config = OptimisationConfig(batch=batch, micro_batches=micro_batches, learning_rate=1e-2, **changes)
    return Trainer(model.double(), source or Noise(), config, schedule_steps=12, seed=7, device=CPU)


class NoiseOfTheWholeBatch(TorchFunctionMode):
    """Gives a row of the batch the same noise however many ranks there are.

    Noise that is asked of a model's generator is drawn for all ranks, from a generator that all of them have, and cut.
    Its rows are on the first axis whose length this rank's rows divide.
    """

    def __init__(self, replaced):
        super().__init__()
        self.replaced, self.common = replaced, torch.Generator().manual_seed(0)

    def __torch_function__(self, function, types, args=(), kwargs=None):
        options = kwargs or {}
        if function not in (torch.rand, torch.randn) or options["generator"] is not self.replaced:
            return function(*args, **options)
        shape = list(args) if isinstance(args[0], int) else list(args[0])
        axis = next(axis for axis, size in enumerate(shape) if size % (BATCH // distributed.world_size()) == 0)
        shape[axis] *= distributed.world_size()
        whole = function(shape, **{**options, "generator": self.common})
        return whole.chunk(distributed.world_size(), dim=axis)[distributed.rank()]


def k_means_of_the_first_part(vectors, codes, generator, original=codebooks.k_means):
    """Two ranks take the clusters of rank 0, i.e. of the first half of the batch; one rank alone shall, too."""
    return original(vectors[: len(vectors) * distributed.world_size() // 2], codes, generator)


def gradients(case, micro_batches=1):
    """Return gradients, state and logged values of two steps without optimisers, in which gradients add up."""
    current = trainer(case, micro_batches=micro_batches)
    current.steps = 10 if CASES[case][0] == "daps" else 0  # its search begins after the warm start
    current.optimisers = ()
    noise = NoiseOfTheWholeBatch(current.model_generator)
    with noise, mock.patch.object(codebooks, "k_means", k_means_of_the_first_part):
        logged = [current.step() for _ in range(2)]
    found = {name: p.grad for name, p in current.model.named_parameters() if p.grad is not None}
    return {"gradients": found, "state": current.model.state_dict(), "logged": logged}


def trained(case):
    """Train with draws of its own, also in a second trainer that goes on from a state; return both whole states."""
    first, second = trainer(case, batch=8), trainer(case, batch=8)
    while first.steps < 9:
        first.step()
    second.load_state(copy.deepcopy(first.state()))
    for current in (first, second):
        while current.steps < 12:
            current.step()
    return {"trained": first.state(), "resumed": second.state()}


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
        "runs": {case: trained(case) for case in CASES},
        "poisoned": poisoned(),
        "plateau": plateau(),
        "rows": distributed.own_rows(torch.arange(6.0)),
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    with distributed.process_group(CPU):
        torch.save(everything(), Path(sys.argv[1]) / f"rank{distributed.rank()}.pt")
