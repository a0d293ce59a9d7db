"""Ctrl-C and SIGTERM to train_lowlevel: saved between two updates, and continued as if nothing had happened."""

import json
import signal

import pytest

from motionlex.controllers import low_level, low_level_imitation
from motionlex.controllers.low_level import train_low_level
from motionlex.controllers.low_level_flags import LowLevelFlags
from motionlex.controllers.low_level_imitation import IMITATION_FILE, Distillation
from motionlex.controllers.ppo import TrackingPPO
from motionlex.motion_vae.interruption import postponed_interrupt
from motionlex.scripts import train_lowlevel

PLAIN = {"evaluate": False, "threads": 1}
SIGNALS = [signal.SIGINT, signal.SIGTERM]


def signalled(patch, owner, method, *, call, number, times=1):
    """Let a signal come in the middle of one call of a method, so many times."""
    original, calls = getattr(owner, method), []

    def work(*arguments, **options):
        calls.append(method)
        if len(calls) == call:
            for _ in range(times):
                signal.raise_signal(number)
        return original(*arguments, **options)

    patch.setattr(owner, method, work)


def weights(folder):
    return (folder / "weights.safetensors").read_bytes()


def meta(folder):
    return json.loads((folder / "meta.json").read_text())


@pytest.fixture
def flags(small_training, own_interrupts, monkeypatch):
    """Flags of four updates of 64 steps, with a score after every second one."""
    monkeypatch.setattr(low_level, "Scorer", lambda *_: lambda _: {"success_rate": 0.5})
    return lambda out, **more: LowLevelFlags(**{"out": out, "steps": 256, "evaluate_every": 128, **PLAIN, **more})


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize(
    ("method", "call", "steps"),
    [
        ("collect_rollouts", 1, 0),  # before the first step
        ("train", 1, 64),
        ("train", 2, 128),  # a score is due there, which the resumed run makes up for
        ("train", 4, 256),  # nothing is left but the evaluation
    ],
)
def test_a_run_that_is_interrupted_goes_on_as_if_it_had_not_been(
    tmp_path, flags, monkeypatch, own_interrupts, number, method, call, steps
):
    train_low_level(flags(tmp_path / "whole", steps=384))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        signalled(patch, TrackingPPO, method, call=call, number=number)
        train_low_level(flags(tmp_path / "broken"))
    assert {number: signal.getsignal(number) for number in SIGNALS} == own_interrupts
    assert meta(tmp_path / "broken")["steps"] == steps
    assert not (tmp_path / "broken" / "evaluation.json").exists()
    train_low_level(LowLevelFlags(resume=tmp_path / "broken", steps=384, **PLAIN))
    assert weights(tmp_path / "whole") == weights(tmp_path / "broken")
    scored = [[score["steps"] for score in meta(tmp_path / name)["scores"]] for name in ("whole", "broken")]
    assert scored[0] == scored[1] == [128.0, 256.0]


def test_the_command_ends_in_words_and_says_what_is_saved(tmp_path, flags, monkeypatch, capfd):
    signalled(monkeypatch, TrackingPPO, "train", call=2, number=signal.SIGTERM)
    chosen = ("--steps", "100000", "--processes", "1", "--threads", "1", "--no-evaluate", "--json")
    assert train_lowlevel.main([*chosen, "--out", str(tmp_path / "run")]) == 2
    printed = capfd.readouterr()
    assert not printed.out and "Traceback" not in printed.err
    assert printed.err.strip().splitlines()[-1].endswith("a run continues with --resume")
    assert (tmp_path / "run" / "training_state.pt").is_file() and meta(tmp_path / "run")["steps"] == 128


def test_a_second_interrupt_does_not_wait_and_sigterm_may_come_twice(tmp_path, flags, monkeypatch):
    for number, saved in ((signal.SIGINT, False), (signal.SIGTERM, True)):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            signalled(patch, TrackingPPO, "train", call=2, number=number, times=2)
            train_low_level(flags(tmp_path / number.name))
        assert (tmp_path / number.name / "training_state.pt").is_file() == saved


def test_what_launchers_pass_on_is_noted_however_often_it_comes(own_interrupts):
    with postponed_interrupt(launched=True) as asked:
        assert not asked.is_set()
        for number in (signal.SIGINT, signal.SIGINT, signal.SIGTERM, signal.SIGINT):
            signal.raise_signal(number)
        assert asked.is_set()
    assert {number: signal.getsignal(number) for number in SIGNALS} == own_interrupts


@pytest.mark.parametrize(
    ("call", "imitated", "ppo"),
    [
        (1, 128, False),
        (3, 384, False),
        (4, 512, True),  # the imitation ends; PPO has saved where it begins
    ],
)
def test_an_imitation_that_is_interrupted_goes_on_as_if_it_had_not_been(
    tmp_path, flags, tiny_vae_run, monkeypatch, call, imitated, ppo
):
    """Four horizons of 4 robots of 32 steps each, then two updates of PPO."""
    recipe = low_level_imitation.DistillationConfig
    monkeypatch.setattr(
        low_level_imitation,
        "DistillationConfig",
        lambda steps: recipe(steps=steps, memory=200, updates=2, minibatch=64),
    )
    train_low_level(flags(tmp_path / "teacher", steps=64))
    latent = {"goal": "latent", "vae": tiny_vae_run, "code_draws": 2, "teacher": tmp_path / "teacher"}
    shorter = {"steps": 128, "distill_steps": 512, **latent}
    train_low_level(flags(tmp_path / "whole", **shorter))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        signalled(patch, Distillation, "_learn", call=call, number=signal.SIGTERM)
        train_low_level(flags(tmp_path / "broken", **shorter))
    assert json.loads((tmp_path / "broken" / IMITATION_FILE).read_text())["steps"] == imitated
    assert (tmp_path / "broken" / "training_state.pt").is_file() == ppo
    assert train_low_level(LowLevelFlags(resume=tmp_path / "broken", **PLAIN))["steps"] == 128
    assert weights(tmp_path / "whole") == weights(tmp_path / "broken")
    assert not list((tmp_path / "broken").glob("imitation_*"))  # PPO's own checkpoint is enough
