r"""Bias of the straight-through Gumbel-softmax gradient against the entropy of the categorical; nothing is trained.

A function f of a one-hot code c of 10 values is a fixed random MLP with hidden layers of 50 and 5 units. The gradient
of :math:`\sum_c p_c f(c)` with respect to the logits is known exactly; its estimate is averaged over draws.

Source: GM-VQ, figure 3 and appendix A.1 (50 draws).
Departure: the average of 50 draws differs from the exact gradient mostly by its own noise, which the paper calls bias
too; we also give the difference after many draws, of which noise is a small part. Weights, logits, activation (ReLU)
and the temperature of the estimator (1) are not in the paper.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from motionlex.data.storage import write_json
from motionlex.motion_vae.estimators import gumbel_noise, gumbel_softmax
from motionlex.motion_vae.images.evaluation import EVALUATION_FILE
from motionlex.motion_vae.images.jobs import Experiment, Finished, Options, Report
from motionlex.motion_vae.images.mlp import dense_layers
from motionlex.motion_vae.metrics import student_interval

ACTIONS, HIDDEN = 10, (50, 5)
"""Values of the code, and hidden layers of the function."""
PAPER_DRAWS, MANY_DRAWS = 50, 20_000
"""Draws that are averaged: as in the paper, and enough to leave the bias alone."""
TEMPERATURES = tuple(float(value) for value in np.geomspace(0.1, 10.0, 25))
"""What the logits are divided by, which sets the entropy."""
PAPER_CORRELATION = 0.77


def exact_gradient(function: nn.Module, logits: Float[Tensor, " code"]) -> Float[Tensor, " code"]:
    """Gradient of the expectation with respect to the logits, by going through all codes."""
    leaf = logits.detach().requires_grad_()
    values = function(torch.eye(len(logits), dtype=logits.dtype)).squeeze(-1).detach()
    (gradient,) = torch.autograd.grad((torch.softmax(leaf, dim=-1) * values).sum(), leaf)
    return gradient


def estimated_gradient(
    function: nn.Module, logits: Float[Tensor, " code"], generator: torch.Generator, *, draws: int
) -> Float[Tensor, " code"]:
    """Average of straight-through Gumbel-softmax gradients at temperature 1."""
    leaf = logits.detach().expand(draws, -1).clone().requires_grad_()
    codes = gumbel_softmax(leaf, gumbel_noise(leaf, generator), temperature=1.0)
    (gradient,) = torch.autograd.grad(function(codes).sum(), leaf)
    return gradient.mean(dim=0)


@dataclass(frozen=True, kw_only=True)
class BiasJob:
    """One random function and one set of logits at all entropies."""

    seed: int
    """Of the function, the logits and the draws."""
    row: str = "Gumbel-softmax, straight-through"
    """Row of the table."""

    @property
    def name(self) -> str:
        """Name of its folder."""
        return f"bias_seed{self.seed}"

    def run(self, folder: Path, device: str) -> None:
        """Measure on the CPU in float64; it takes about a second."""
        del device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            function = dense_layers((ACTIONS, *HIDDEN, 1)).double()
        generator = torch.Generator().manual_seed(self.seed)
        logits = torch.randn(ACTIONS, generator=generator, dtype=torch.float64)
        entropies: list[float] = []
        distances: dict[int, list[float]] = {PAPER_DRAWS: [], MANY_DRAWS: []}
        for temperature in TEMPERATURES:
            scaled = logits / temperature
            exact = exact_gradient(function, scaled)
            entropies.append(torch.special.entr(torch.softmax(scaled, dim=-1)).sum().item())
            for draws, found in distances.items():
                estimate = estimated_gradient(function, scaled, generator, draws=draws)
                found.append((estimate - exact).norm().item())
        write_json(
            folder / EVALUATION_FILE,
            {
                "seed": self.seed,
                "entropy_nats": entropies,
                "distance_paper": distances[PAPER_DRAWS],
                "distance_many": distances[MANY_DRAWS],
            },
        )


def bias_jobs(options: Options) -> tuple[BiasJob, ...]:
    """One job per seed; nothing else of the options matters."""
    return tuple(BiasJob(seed=seed) for seed in options.seeds)


def report_bias(options: Options, finished: Sequence[Finished], folder: Path) -> Report:
    """Correlate distance and entropy for each seed, and draw all points."""
    lines = ["| draws | correlation of distance and entropy | paper | seeds |", "| --- | --- | --- | --- |"]
    rows = []
    seeds = [one.job.seed for one in finished]
    for key, draws in (("distance_paper", PAPER_DRAWS), ("distance_many", MANY_DRAWS)):
        values = [float(np.corrcoef(one.result["entropy_nats"], one.result[key])[0, 1]) for one in finished]
        mean, half = student_interval(values)
        paper = PAPER_CORRELATION if draws == PAPER_DRAWS else None
        rows.append({"draws": draws, "mean": mean, "half_width_95": half, "values": values, "paper": paper})
        shown = f"{mean:.2f}" + ("" if half is None else f" ± {half:.2f}")
        lines.append(f"| {draws:,} | {shown} | {'-' if paper is None else paper} | {', '.join(map(str, seeds))} |")
    notes = [
        "Pearson's correlation for each random function, mean ± half of the 95 % interval over functions",
        f"With {PAPER_DRAWS} draws, as in the paper, most of the distance is noise of the average",
    ]
    title = "GM-VQ, figure 3: error of the Gumbel-softmax gradient against entropy"
    text = f"## {title}\n\n" + "\n".join(lines) + "\n\n" + "\n\n".join(f"{note}." for note in notes) + "\n"
    plain = {"title": title, "rows": rows, "seeds": seeds, "notes": notes}
    return text, plain, [_draw(finished, folder / "gumbel_bias.png")]


def _draw(finished: Sequence[Finished], path: Path) -> Path:
    from matplotlib.figure import Figure  # slow to import and wanted only here

    from motionlex.motion_vae import figures

    figure = Figure(figsize=(9.0, 4.0), dpi=figures.DPI, layout="constrained")
    panels = (("distance_paper", PAPER_DRAWS), ("distance_many", MANY_DRAWS))
    for axes, (key, draws) in zip(figure.subplots(1, 2), panels):
        for one in finished:
            axes.plot(one.result["entropy_nats"], one.result[key], ".", markersize=4)
        axes.set_title(f"mean of {draws:,} draws", fontsize=10)
        axes.set_xlabel("entropy [nat]")
        axes.set_ylabel("distance from the exact gradient")
        axes.grid(alpha=0.3)
    return figures.save(figure, path)


GUMBEL_BIAS = Experiment(
    name="gumbel-bias",
    summary="GM-VQ, figure 3: bias of the Gumbel-softmax gradient against entropy (nothing is trained)",
    data="",
    jobs=bias_jobs,
    report=report_bias,
)
