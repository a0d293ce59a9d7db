"""What tests of Gumbel draws measure with."""

import math

import torch

ERRORS = 4.0
"""Standard errors within which seeded means must lie: a right estimator fails 6 in 100,000 such comparisons."""


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def standard_error(values):
    return values.std(dim=0) / math.sqrt(len(values))
