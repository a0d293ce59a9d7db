"""The trainer: guards, interrupts, parts of a batch, precision, plateaus and what a GPU would see."""

import copy
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from trainer_doubles import Noise, small_trainer

from motionlex.motion_vae.contract import DiscreteAutoencoder, LossTerms, OptimisationConfig, ParameterGroup
from motionlex.motion_vae.metrics import code_perplexity
from motionlex.motion_vae.optimisation import GroupOptimiser
from motionlex.motion_vae.quantisation import code_sums
from motionlex.motion_vae.registry import available_methods, build_model, get_preset, override
from motionlex.motion_vae.trainer import NonFiniteLossError, Trainer, transferred
from motionlex.motion_vae.trajectories.domain import TrajectoryDomain
from motionlex.motion_vae.validation import held_out_score

TINY = ("width=8", "heads=2", "layers=1", "mlp_ratio=1", "vocabulary=8", "batch=4", "samples=2", "ess_target=0.7")


class Poisoned:
    """Batches that become NaN at the third draw."""

    def __init__(self):
        self.drawn = 0

    def sample(self, batch, generator):
        self.drawn += 1
        return torch.full((batch, 32, 5), float("nan") if self.drawn == 3 else 0.5)


def test_a_non_finite_loss_stops_before_it_spoils_the_weights():
    config = override(get_preset("daps", "small"), TINY).method
    model = build_model("daps", config, TrajectoryDomain(features=5), seed=0)
    trainer = Trainer(
        model, Poisoned(), OptimisationConfig(batch=2), schedule_steps=10, seed=0, device=torch.device("cpu")
    )
    trainer.step()
    trainer.step()
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(NonFiniteLossError) as caught:
        trainer.step()
    assert caught.value.batch.isnan().all() and caught.value.steps == 2
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters()))
    assert "batch is in dump.pt" in str(caught.value.dumped(Path("dump.pt")))


class Scalars:
    """Notes the names that a writer receives at each step."""

    def __init__(self):
        self.names = {}

    def add_scalar(self, tag, scalar_value, global_step):
        self.names.setdefault(global_step, set()).add(tag)


def test_values_of_a_past_phase_leave_the_window(monkeypatch):
    """Three steps of a warm start, then search; the validation score, which comes now and then, stays."""
    monkeypatch.setattr("motionlex.motion_vae.trainer.WINDOW_STEPS", 2)
    settings = {"batch": 2, "validation_steps": 3, "validate": lambda: 1.5}
    trainer = small_trainer("daps", "continuous=0", "quantise=0.25", "imitate=0", **settings)
    phases = [set(trainer.step()) - {"validation_score_nats"} for _ in range(4)]
    assert phases[0] == phases[2] and phases[2] - phases[3], "this test needs names that end"
    trainer = small_trainer("daps", "continuous=0", "quantise=0.25", "imitate=0", **settings)
    writer = Scalars()
    result = trainer.run(4, save=lambda _: None, checkpoint_steps=9, writer=writer)
    assert set(result) == phases[3] | {"validation_score_nats"}
    assert writer.names[2] == {f"train/{name}" for name in phases[0]}
    assert writer.names[4] == {f"train/{name}" for name in phases[3]} | {"validation/score_nats"}


def test_an_infinite_gradient_of_a_finite_loss_stops_too():
    """The square root at zero: 0, with a derivative of infinity; weights and Adam's moments stay as they were."""
    config = OptimisationConfig(batch=4, micro_batches=2, weight_decay=0.0, adaptive_clipping=None)
    model = Alternating()
    trainer = Trainer(model, Ones(), config, schedule_steps=10, seed=0, device=torch.device("cpu"))
    trainer.step()
    before = model.weight.item(), trainer.state()["optimisers"]["all"]["state"][0]["exp_avg"].item()
    model.function = lambda value: (value - value.detach()).sqrt()
    with pytest.raises(NonFiniteLossError, match=r"the gradient is not finite at step 1 .*gradient_norm=inf") as caught:
        trainer.step()
    assert caught.value.terms["loss"] == 0.0 and torch.equal(caught.value.batch, torch.ones(4, 1, 1))
    moment = trainer.state()["optimisers"]["all"]["state"][0]["exp_avg"].item()
    assert (model.weight.item(), moment) == before and model.weight.grad is None


class Interrupted:
    """A signal, so many times, in the middle of the third step: the batch is drawn, nothing is updated."""

    def __init__(self, times, number=signal.SIGINT):
        self.drawn, self.times, self.number = 0, times, number

    def sample(self, batch, generator):
        self.drawn += 1
        if self.drawn == 3:
            for _ in range(self.times):
                signal.raise_signal(self.number)
        return torch.randn(batch, 1, 1, generator=generator)


def interrupted_trainer(times, number=signal.SIGINT):
    config = OptimisationConfig(batch=2, learning_rate=0.1, adaptive_clipping=None)
    return Trainer(
        Alternating(), Interrupted(times, number), config, schedule_steps=10, seed=0, device=torch.device("cpu")
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_is_saved_between_two_steps(own_interrupts, number):
    """Continued from there it ends like one that was left alone, and signals mean afterwards what they meant before."""
    saved, whole, resumed = [], interrupted_trainer(0), interrupted_trainer(0)
    whole.run(6, save=lambda _: None, checkpoint_steps=100)
    with pytest.raises(KeyboardInterrupt):
        interrupted_trainer(1, number).run(
            6, save=lambda t: saved.append(copy.deepcopy(t.state())), checkpoint_steps=100
        )
    assert [state["steps"] for state in saved] == [3]
    resumed.load_state(saved[0])
    assert resumed.run(6, save=lambda _: None, checkpoint_steps=100) == whole.averages()
    assert torch.equal(resumed.model.weight, whole.model.weight)
    assert {number: signal.getsignal(number) for number in own_interrupts} == own_interrupts


def test_a_second_interrupt_does_not_wait_and_keeps_the_last_checkpoint(own_interrupts):
    saved, trainer = [], interrupted_trainer(2)
    with pytest.raises(KeyboardInterrupt):
        trainer.run(6, save=lambda t: saved.append(t.steps), checkpoint_steps=1)
    assert saved == [1, 2] and signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_launchers_may_send_sigterm_twice(own_interrupts, first, monkeypatch):
    saved, trainer = [], interrupted_trainer(2, signal.SIGTERM)
    signal_again = signal.raise_signal
    sent = iter([first, signal.SIGTERM])
    monkeypatch.setattr(signal, "raise_signal", lambda number: signal_again(next(sent)))
    with pytest.raises(KeyboardInterrupt):
        trainer.run(6, save=lambda t: saved.append(t.steps), checkpoint_steps=100)
    assert saved == [3]


def test_a_run_leaves_signals_alone_that_are_not_its_own():
    """A job in the background ignores SIGINT, and a thread cannot set handlers."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        trainer = interrupted_trainer(1)
        trainer.run(4, save=lambda _: None, checkpoint_steps=100)
        assert trainer.steps == 4 and signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    trainer = interrupted_trainer(0)
    thread = threading.Thread(target=trainer.run, args=(4,), kwargs={"save": lambda _: None, "checkpoint_steps": 100})
    thread.start()
    thread.join()
    assert trainer.steps == 4


def test_statistics_of_codes_stay_on_the_device():
    """A fake GPU refuses whatever would make the host wait for a value or for a shape."""
    with FakeTensorMode():
        indices = torch.zeros(4, 8, dtype=torch.int64, device="cuda")
        assert code_perplexity(indices, 16).device.type == "cuda"
        counts, sums = code_sums(torch.zeros(32, 3, device="cuda"), indices.flatten(), 16)
        assert counts.shape == (16,) and sums.shape == (16, 3) and counts.device.type == "cuda"


@pytest.mark.parametrize(
    ("codes", "expected"), [([[0, 1], [6, 7]], 4.0), ([[3, 3]], 1.0), ([[0, 0], [0, 5]], 1.754765)]
)
def test_perplexity_of_a_batch(codes, expected):
    """Even over n codes it is n; for shares of 3/4 and 1/4 it is 4 / 3^(3/4)."""
    found = code_perplexity(torch.tensor(codes), 8)
    assert found.dtype == torch.float32 and found.item() == pytest.approx(expected, rel=1e-6)


def test_counts_and_sums_of_codes():
    counts, sums = code_sums(torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([2, 0, 2]), 4)
    assert counts.tolist() == [1, 0, 2, 0] and sums.flatten().tolist() == [2, 0, 5, 0]


@pytest.mark.parametrize(
    ("rule", "device", "fused"),
    [("adamw", "cuda", True), ("adam", "cuda", True), ("adamw", "cpu", None), ("adamax", "cuda", None)],
)
def test_update_rules_are_one_kernel_on_a_gpu(rule, device, fused):
    with FakeTensorMode():
        weight = torch.nn.Parameter(torch.ones(3, device=device))
        group = ParameterGroup(name="all", parameters=[weight])
        assert GroupOptimiser(group, OptimisationConfig(optimiser=rule)).rule.defaults.get("fused") is fused


def test_a_run_of_a_gpu_continues_on_a_cpu():
    """The saved state asks for the one kernel that a GPU had; the next update is the same up to rounding."""
    first, second = (small_trainer("vqvae", batch=2) for _ in range(2))
    first.step()
    state = copy.deepcopy(first.state())
    for saved in state["optimisers"].values():
        for group in saved["param_groups"]:
            group["fused"] = True
    second.load_state(state)
    first.step(), second.step()
    for a, b in zip(first.model.parameters(), second.model.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_batches_go_to_a_gpu_from_pinned_memory(monkeypatch):
    """What is asked of torch, where there is no GPU; pinning what is on a GPU already would be an error."""
    asked = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda x: asked.append("pin") or x)
    monkeypatch.setattr(torch.Tensor, "to", lambda x, device, non_blocking=False: asked.append(non_blocking) or x)
    x, gpu = torch.ones(2, 3), torch.device("cuda")
    transferred(x, torch.device("cpu"))
    assert asked == [False]
    transferred(x, gpu)
    assert asked == [False, "pin", True]
    with FakeTensorMode():
        transferred(torch.ones(2, 3, device=gpu), gpu)
    assert asked == [False, "pin", True, False]


@pytest.mark.parametrize("update", ["gradient", "ema"])
def test_four_parts_of_16_give_the_gradients_of_64(update):
    """float64: only the order of sums differs; a moving codebook sees the vectors of all parts."""
    found = []
    for parts in (1, 4):
        # Clusters would be those of the first part.
        settings = (f"codebook_update={update}", "kmeans_start=false", "continuous=0", "replace_dead=never")
        trainer = small_trainer("vqvae", *settings, micro_batches=parts, dtype=torch.float64)
        trainer.sampler.sample = lambda batch, generator: Noise().sample(batch, generator).double()
        trainer.optimisers = ()
        logged = trainer.step()
        gradients = {name: p.grad for name, p in trainer.model.named_parameters() if p.grad is not None}
        found.append((gradients, trainer.model.codebook.detach(), logged))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-9, atol=1e-12)
    for name in ("loss", "mean_squared_error"):  # logged in float32
        assert found[0][2][name] == pytest.approx(found[1][2][name], rel=1e-5)


class Alternating(DiscreteAutoencoder):
    """Two objectives per batch; the second sees the weight that the first has moved."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(1.0))
        self.seen = []
        self.function = lambda value: value

    def objectives(self, x, generator, *, progress):
        for name in ("first", "second"):
            self.seen.append((name, x.shape[0], self.weight.item()))
            value = self.function(self.weight * x.mean())
            yield LossTerms(total=value, terms={name: value.detach()}, metrics={})

    def parameter_groups(self):
        return (ParameterGroup(name="all", parameters=[self.weight]),)

    def after_update(self):
        self.seen.append("update")


Alternating.__abstractmethods__ = frozenset()  # nothing else of a method is asked for here


class Ones:
    """Batches of ones."""

    def sample(self, batch, generator):
        return torch.ones(batch, 1, 1)


def test_several_objectives_go_in_step_over_the_parts():
    """All parts of an objective, then one update, then the next; the logged values keep the terms of both."""
    config = OptimisationConfig(batch=4, micro_batches=2, learning_rate=0.5, weight_decay=0.0, adaptive_clipping=None)
    model = Alternating()
    trainer = Trainer(model, Ones(), config, schedule_steps=10, seed=0, device=torch.device("cpu"))
    logged = trainer.step()
    first, second = [("first", 2, 1.0)] * 2, [("second", 2, pytest.approx(0.5))] * 2
    assert model.seen == [*first, "update", *second, "update"], "Adam's first step is the learning rate"
    assert logged == pytest.approx({"loss": 0.5, "loss_first": 1.0, "loss_second": 0.5})


@pytest.mark.parametrize("method", available_methods())
def test_every_method_trains_in_parts_and_in_bf16(method):
    """Two steps through all objectives of a batch; what matters is float32 and finite, and weights have moved."""
    preset = get_preset(method, "small")
    model = build_model(method, preset.method, TrajectoryDomain(frames=4, features=5), seed=0)
    before = [p.detach().clone() for p in model.parameters()]
    config = OptimisationConfig(batch=4, micro_batches=2, precision="bf16")
    trainer = Trainer(model, Noise(), config, schedule_steps=1, seed=0, device=torch.device("cpu"))
    values = trainer.step() | trainer.step()
    assert np.isfinite(list(values.values())).all() and "mean_squared_error" in values
    assert not all(torch.equal(a, b) for a, b in zip(before, model.parameters()))
    assert all(torch.isfinite(p).all() for p in model.parameters())


PLATEAU = {"validation_steps": 2, "plateau_factor": 0.5, "plateau_patience": 1, "plateau_floor": 1e-4, "batch": 4}


SCORES = (1.0, 3.0, 2.0, 3.0, 2.5, float("nan"), 4.0, 1.0, 1.0, 1.0)


RATES = (8e-4, 8e-4, 8e-4, 8e-4, 4e-4, 4e-4, 2e-4, 2e-4, 2e-4, 1e-4)
"""Of the two steps before each score: halved after every second score that is no record, down to the floor."""


def scripted(scores):
    scores = iter(scores)
    return lambda: next(scores)


def rate(trainer):
    return trainer.optimisers[0].rule.param_groups[0]["lr"]


def test_plateaus_lower_the_learning_rate():
    trainer = small_trainer("vqvae", validate=scripted((*SCORES, 1.0)), learning_rate=8e-4, **PLATEAU)
    for score, expected in zip(SCORES, RATES):
        assert "validation_score_nats" not in trainer.step()
        np.testing.assert_equal(trainer.step()["validation_score_nats"], score)
        assert rate(trainer) == pytest.approx(expected)
    for _ in range(3):
        trainer.step()
    assert rate(trainer) == pytest.approx(1e-4), "0.5e-4 would be below the floor"


def test_a_plateau_survives_a_resume():
    trainer = small_trainer("vqvae", validate=scripted(SCORES), learning_rate=8e-4, **PLATEAU)
    for _ in range(10):
        trainer.step()
    resumed = small_trainer("vqvae", validate=scripted(SCORES[5:]), learning_rate=8e-4, **PLATEAU)
    resumed.load_state(trainer.state())
    for _ in range(9):
        trainer.step(), resumed.step()
    assert rate(trainer) == rate(resumed) == pytest.approx(1e-4)
    assert trainer.plateau.state() == resumed.plateau.state()


@pytest.mark.parametrize(
    "changes",
    [
        {"plateau_factor": 0.5},
        {"plateau_factor": 1.0, "validation_steps": 5},
        {"plateau_patience": -1},
        {"validation_steps": -1},
        {"plateau_floor": 0.0},
        {"micro_batches": 3},
    ],
)
def test_bad_optimisation_is_refused_at_once(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        OptimisationConfig(batch=4, **changes)


def test_the_score_is_the_beta_elbo_with_fixed_noise():
    """A generative network that ignores its codes, and q made uniform: the KL is 0, the likelihood a closed form."""
    model = small_trainer("daps").model
    with torch.no_grad():
        for parameter in (
            *model.recognition.decoder.output.parameters(),
            *model.generative.decoder.output.parameters(),
        ):
            parameter.zero_()
    x = Noise().sample(7, torch.Generator().manual_seed(0))
    score = held_out_score(model, x, batch=3, seed=0)
    variance = get_preset("daps", "small").likelihood.variance
    expected = -0.5 * (x.double().square() / variance + np.log(2 * np.pi * variance)).sum(dim=(1, 2)).mean()
    assert score() == pytest.approx(expected.item(), rel=1e-6)
    model = small_trainer("daps").model
    score = held_out_score(model, x, batch=3, seed=0)
    assert score() == score()
