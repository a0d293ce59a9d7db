"""Flows on codes against distributions that are known, and label-conditioned digits that a classifier recognises."""

import itertools

import pytest
import torch

from motionlex.motion_vae.images import label_samples
from motionlex.motion_vae.images.code_flow import SOURCES, CodeFlow, CodeFlowConfig, fit_code_flow, follow_flow
from motionlex.motion_vae.images.jobs import read_result
from motionlex.motion_vae.images.label_samples import LabelJob
from motionlex.motion_vae.images.recipes import Recipe

CODES = 3
PAIRS = torch.tensor(list(itertools.product(range(CODES), repeat=2)))
# Two tokens that agree more often than not, and two that never do.
JOINT = torch.tensor(
    [[0.40, 0.02, 0.03, 0.05, 0.20, 0.05, 0.00, 0.05, 0.20], [0.00, 0.30, 0.10, 0.05, 0.00, 0.25, 0.10, 0.20, 0.00]],
    dtype=torch.float64,
)


def frequencies(codes):
    """Share of every pair of codes, in the order of PAIRS."""
    counts = torch.bincount(codes[:, 0] * CODES + codes[:, 1], minlength=CODES**2)
    return counts.double() / len(codes)


def exact_denoiser(joint, mask):
    """Logits of p(z_1^i | z_t, t) by going through all pairs."""

    def denoise(codes, time):
        likelihood = torch.ones(len(codes), len(PAIRS), dtype=torch.float64)
        for token in range(2):
            now, then = codes[:, token, None], PAIRS[None, :, token]
            if mask is None:
                likelihood *= time * (now == then) + (1.0 - time) / CODES
            else:
                likelihood *= ((now == mask) | (now == then)).double()
        posterior = likelihood * joint
        marginals = [
            torch.stack([posterior[:, PAIRS[:, token] == code].sum(dim=1) for code in range(CODES)], dim=1)
            for token in range(2)
        ]
        return torch.stack(marginals, dim=1).clamp_min(1e-30).log()

    return denoise


def source(mask, count, generator):
    """All masked, or uniform."""
    if mask is None:
        return torch.randint(CODES, (count, 2), generator=generator)
    return torch.full((count, 2), mask)


@pytest.mark.parametrize("mask", [None, CODES])
@pytest.mark.parametrize("joint", JOINT)
def test_a_flow_with_the_exact_posterior_ends_in_the_data(joint, mask):
    """Of 20,000 draws a frequency is off by at most 0.0035 (one deviation); 64 steps add what two tokens that change
    in the same step, about one in 64 pairs, make of their dependence."""
    generator = torch.Generator().manual_seed(0)
    start = source(mask, 20_000, generator)
    drawn = follow_flow(exact_denoiser(joint, mask), start, generator, steps=64, mask=mask)
    assert (frequencies(drawn) - joint).abs().max() < 0.016


def test_one_step_knows_nothing_of_dependence():
    generator = torch.Generator().manual_seed(0)
    start = source(CODES, 20_000, generator)
    drawn = follow_flow(exact_denoiser(JOINT[0], CODES), start, generator, steps=1, mask=CODES)
    table = JOINT[0].view(CODES, CODES)
    product = torch.outer(table.sum(dim=1), table.sum(dim=0)).flatten()
    assert (frequencies(drawn) - product).abs().max() < 0.016
    assert (frequencies(drawn) - JOINT[0]).abs().max() > 0.1


@pytest.mark.parametrize("name", SOURCES)
def test_a_trained_flow_has_the_frequencies_of_its_label(name):
    """Total variation of 4,000 draws from 9 cells is 0.015 by chance; the rest is for the short training."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(2).repeat_interleave(4000)
    codes = torch.cat([PAIRS[torch.multinomial(row, 4000, replacement=True, generator=generator)] for row in JOINT])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = CodeFlowConfig(source=name, width=32, heads=2, layers=1, steps=400, learning_rate=5e-3)
        flow = CodeFlow(config, vocabulary=CODES, tokens=2, classes=2)
    fit_code_flow(flow, codes, labels, seed=0)
    drawn = flow.sample(labels, generator, steps=32)
    assert drawn.min() >= 0 and drawn.max() < CODES
    for label in range(2):
        assert 0.5 * (frequencies(drawn[labels == label]) - JOINT[label]).abs().sum() < 0.07
    assert 0.5 * (JOINT[0] - JOINT[1]).abs().sum() > 0.7  # a flow without labels is 0.35 off or more


def test_configurations_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="at least 1"):
        CodeFlowConfig(steps=0)
    with pytest.raises(ValueError, match="heads"):
        CodeFlowConfig(width=30, heads=4)


def test_samples_of_digits_show_their_labels(tmp_path, monkeypatch):
    """Chance is 0.1, and the deviation of a share of 359 images at most 0.027."""
    recipe = Recipe(
        method="vqvae", setting="tiny", data="digits", family="bernoulli", width=32, batch=64, steps=300, seed=0
    )
    folder = tmp_path / "job"
    job = LabelJob(row="VQ-VAE", slug="vqvae", recipe=recipe)
    job.run(folder, "cpu")
    result = read_result(job, folder).result
    assert result["classifier_accuracy"] > 0.85 and result["reconstruction_accuracy"] > 0.5
    assert result["sample_accuracy"] > 0.35
    by_label = result["sample_accuracy_by_label"]
    assert len(by_label) == 10 and min(by_label) == result["worst_label_accuracy"]
    assert min(by_label) <= result["sample_accuracy"] <= max(by_label)
    assert (folder / "label_samples.png").read_bytes()[:4] == b"\x89PNG"

    def refuse(*_, **__):
        raise AssertionError("trained again")

    for name in ("fit_classifier", "fit_code_flow"):
        monkeypatch.setattr(label_samples, name, refuse)
    (folder / "evaluation.json").unlink()
    job.run(folder, "cpu")  # as after a kill between training and the last file
    again = read_result(job, folder).result
    assert {name: again[name] for name in result if "accuracy" in name} == {
        name: result[name] for name in result if "accuracy" in name
    }
