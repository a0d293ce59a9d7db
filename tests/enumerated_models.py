"""Models small enough to enumerate all of their code sequences."""

import itertools
import math

import pytest
import torch

from motionlex.motion_vae.likelihoods import LikelihoodConfig
from motionlex.motion_vae.registry import build_model, get_preset, override
from motionlex.motion_vae.trajectories.domain import TrajectoryDomain

CODES, TOKENS, FEATURES, BETA = 3, 2, 2, 0.3


SIZES = (f"vocabulary={CODES}", "width=4", "heads=2", "layers=1", "generator_layers=1", "mlp_ratio=1")


FIXED_BETA = (f"beta_start={BETA}", f"beta_end={BETA}")


ALL = torch.tensor(list(itertools.product(range(CODES), repeat=TOKENS)))


FACTORISATIONS = ("autoregressive", "factorised")


def tiny(method, *settings, likelihood="gaussian"):
    """A model in float64 whose q is far from uniform and whose returns differ by a few nats."""
    config = override(get_preset(method, "paper"), (*SIZES, *FIXED_BETA, *settings)).method
    domain = TrajectoryDomain(frames=1, features=FEATURES)
    # Motion refuses the tutorial's Bernoulli likelihood; here it only decodes a handful of bits.
    object.__setattr__(domain, "likelihood_config", LikelihoodConfig(family=likelihood))
    model = build_model(method, config, domain, seed=0).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and parameter.ndim and "likelihood" not in name:
                parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64), alpha=0.5)
        factorised = model.config.factorisation == "factorised"
        last = model.recognition.output if factorised else model.recognition.decoder.output
        for parameter in last.parameters():
            parameter.mul_(0.4)  # no sequence becomes so rare that draws would never show it
    return model


def segment():
    return torch.randn(1, 1, FEATURES, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def enumerated(model, x):
    """Log q and log p of all sequences, with gradient."""
    log_q = model.recognition.log_prob(ALL[None], model.recognition.memory(x))[0]
    return log_q, model.generative(ALL[None]).log_prob(x.unsqueeze(1))[0]


def flat_gradient(value, module):
    parameters = [p for p in module.parameters() if p.requires_grad]
    found = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
    return torch.cat([torch.zeros_like(p).flatten() if g is None else g.flatten() for p, g in zip(parameters, found)])


def multisets(log_q, samples):
    """All K-tuples up to order, as rows of indices, with their multinomial probabilities."""
    rows, probabilities = [], []
    for row in itertools.combinations_with_replacement(range(len(log_q)), samples):
        counts = [row.count(i) for i in set(row)]
        orders = math.factorial(samples) / math.prod(math.factorial(c) for c in counts)
        rows.append(row)
        probabilities.append(orders * math.exp(sum(log_q[i].item() for i in row)))
    return torch.tensor(rows), torch.tensor(probabilities, dtype=torch.float64)


class Draws:
    """Stands in for ``recognition.sample``: hands out a chosen tuple of sequences."""

    def __init__(self, model, monkeypatch):
        self.indices = None
        monkeypatch.setattr(model.recognition, "sample", self)

    def __call__(self, memory, samples, generator):
        assert not memory.requires_grad, "samples are drawn without gradient"
        assert self.indices.shape[1] == samples
        return self.indices, torch.full(self.indices.shape[:2], float("nan"), dtype=torch.float64)


def gradients_of_all_tuples(model, x, monkeypatch, *, module=None):
    """Gradient of the model's own loss for every tuple of draws, and the tuples' probabilities."""
    log_q, _ = enumerated(model, x)
    rows, probability = multisets(log_q.detach(), model.config.samples)
    assert probability.sum().item() == pytest.approx(1.0, abs=1e-12)
    draws, gradients = Draws(model, monkeypatch), []
    for row in rows:
        draws.indices = ALL[row][None]
        total = model.loss(x, torch.Generator(), progress=0.5).total
        gradients.append(flat_gradient(total, module or model.recognition))
    return torch.stack(gradients), probability


def mean_and_variance(gradients, probability):
    mean = probability @ gradients
    return mean, (probability @ (gradients - mean).square()).sum().item()
