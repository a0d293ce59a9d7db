"""One low-level policy whose weights are the mean of several that descend from one another.

Fine-tuning by PPO wanders: along directions that hardly change the return, the noise of the gradients moves the weights
and every run ends elsewhere. The mean of runs with a common ancestor keeps what they agree on and loses the wandering.

Source: stochastic weight averaging (Izmailov et al. 2018), model soups (Wortsman et al. 2022); here for policies.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import torch
import tyro
from torch import Tensor

from motionlex.controllers.low_level_policy import CodeFeatures, LowLevelPolicy
from motionlex.controllers.low_level_setup import check_same_meaning, load_low_level_config
from motionlex.data.errors import UserError
from motionlex.data.storage import write_json
from motionlex.motion_vae import checkpoint
from motionlex.motion_vae.registry import PlainValue

logger = logging.getLogger(__name__)
AVERAGED = "averaged"
"""Key of meta.json with the runs that were averaged."""


@dataclass(frozen=True, kw_only=True)
class AverageFlags:
    """Average the weights of low-level policies that descend from one another (train_lowlevel --init)."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Two or more runs of train_lowlevel; one that is named twice counts twice."""
    out: Path
    """New folder; it serves where a run of train_lowlevel does, but cannot be resumed (start from it with --init)."""
    json: bool = False
    """Print one JSON object as the last line of stdout."""


def average_policies(flags: AverageFlags) -> dict[str, PlainValue]:
    """Write the mean of policies as a policy.

    Returns:
        ``run`` (the new folder), ``policies`` (how many), and ``spread``: root mean square distance of the actors'
        weights from their mean, relative to the mean's own root mean square. Descendants of one run are near (0.01
        after 10 M steps of fine-tuning); runs that began apart are not (about 1), and their mean is no policy.

    Raises:
        UserError: If there is only one, one is no run, or they do not mean the same by observations and actions.
    """
    if len(flags.runs) < 2:
        raise UserError(f"an average wants two or more runs, got {len(flags.runs)}")
    checkpoint.check_new(flags.out)
    configs = [load_low_level_config(run) for run in flags.runs]
    policies = [LowLevelPolicy.load(run) for run in flags.runs]
    first = policies[0]
    for run, policy in zip(flags.runs[1:], policies[1:], strict=True):
        check_same_meaning(policy.task, first.task, f"{run} and {flags.runs[0]} cannot be averaged")
        if policy.shape != first.shape:
            raise UserError(f"{run} and {flags.runs[0]} cannot be averaged: their networks have other sizes")
        if policy.codes is not None and first.codes is not None and not _same(policy.codes, first.codes):
            raise UserError(f"{run} and {flags.runs[0]} cannot be averaged: they follow codes of other autoencoders")
    states = [cast("dict[str, Tensor]", policy.state_dict()) for policy in policies]
    spread = _spread(states)
    metas = [checkpoint.read_json(run / checkpoint.META_FILE) for run in flags.runs]
    digests = [name for name in metas[0] if name.endswith("_sha256")]
    agreed = {name: metas[0][name] for name in digests if all(meta.get(name) == metas[0][name] for meta in metas)}
    first.load_state_dict(mean_state(states))
    with checkpoint.NewRunFolder(flags.out) as partial:
        write_json(partial / checkpoint.CONFIG_FILE, asdict(configs[0]))
        write_json(
            partial / checkpoint.META_FILE,
            {**checkpoint.provenance(), **agreed, AVERAGED: [str(run) for run in flags.runs], "spread": spread},
        )
        first.save(partial)
    logger.info("%s: mean of %d policies, %.3f apart", flags.out, len(policies), spread)
    return {"run": str(flags.out), "policies": len(policies), "spread": spread}


def mean_state(states: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return the mean of equally shaped states, in the precision of the first; sums are taken in float64."""
    return {
        name: torch.stack([state[name].double() for state in states]).mean(dim=0).to(value.dtype)
        for name, value in states[0].items()
    }


def _same(one: CodeFeatures, other: CodeFeatures) -> bool:
    return torch.equal(one.embedding, other.embedding)


def _spread(states: Sequence[dict[str, Tensor]]) -> float:
    actors = [torch.cat([v.double().flatten() for k, v in state.items() if k.startswith("actor.")]) for state in states]
    all_of_them = torch.stack(actors)
    mean = all_of_them.mean(dim=0)
    return float((all_of_them - mean).square().mean().sqrt() / mean.square().mean().sqrt())
