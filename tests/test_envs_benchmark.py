"""``benchmark env``: what is measured, in which order, and what happens to bad numbers and dead processes."""

import os
from functools import partial

import numpy as np
import pytest

from motionlex.data.errors import UserError
from motionlex.data.robots import get_robot
from motionlex.envs import benchmark, loco
from motionlex.envs.batched import BatchedTracking
from motionlex.envs.contestants import BatchedContestant, Contestant, RawContestant, RawPhysics, RawStepper
from motionlex.envs.rival_processes import BatchStepper, ProcessContestant, SubprocContestant
from motionlex.envs.simulator import Simulator
from motionlex.envs.task_config import TaskConfig
from motionlex.scripts.benchmark import main

ROBOT = get_robot("h1")


class Recorder(Contestant):
    """Notes its turns."""

    def __init__(self, name, log):
        super().__init__()
        self.name, self.log = name, log

    def turn(self, seconds):
        self.log.append((self.name, seconds))

    def close(self):
        pass


def batch(worlds=6, threads=1, **options):
    task = benchmark.benchmark_task(50.0, **options)
    return BatchedTracking(task, worlds=worlds, threads=threads, generator=np.random.default_rng(0))


def test_turns_alternate_and_last_as_long_as_asked():
    log = []
    benchmark.take_turns([Recorder("a", log), Recorder("b", log)], 1.5)
    assert [name for name, _ in log] == ["a", "b"] * 3
    assert sum(seconds for name, seconds in log if name == "a") == pytest.approx(1.5)
    log.clear()
    benchmark.take_turns([Recorder("a", log)], 0.1)
    assert log == [("a", 0.1)]


def test_the_task_is_as_asked():
    config = benchmark.benchmark_task(100.0, control="torque", reward="beyond_mimic").config
    assert (config.hz, config.control, config.reward) == (100.0, "torque", "beyond_mimic")
    clip = benchmark.benchmark_clip(40.0)
    assert (clip.hz, clip.frames) == (40.0, 400)


def test_raw_physics_get_the_states_and_commands_of_the_environment():
    contestant = BatchedContestant(batch())
    contestant.turn(0.01)
    assert len(contestant.seen) == 16 and contestant.steps % (16 * 6) == 0
    assert contestant.rate == contestant.steps / contestant.seconds
    simulator, checked = Simulator(ROBOT, TaskConfig()), 0
    for (state, ctrl), (after, _) in zip(contestant.seen, contestant.seen[1:]):
        for row in range(6):
            if after[row, 0] > 0.0:  # time 0: that robot was restarted
                simulator.reset(state[row, 1:27], state[row, 27:])
                simulator.step(ctrl[row])
                np.testing.assert_array_equal(simulator.qpos, after[row, 1:27])
                checked += 1
    assert checked > 50
    contestant.close()


def test_raw_physics_choose_a_batch_size_and_count_their_steps():
    contestant = BatchedContestant(batch())
    raw = RawContestant(contestant, threads=2)
    raw.choose(0.002)
    assert raw.worlds in (6, 32, 64)  # sizes up to the 96 remembered states
    assert raw.steps == 0  # trials do not count
    raw.turn(0.01)
    assert raw.seconds >= 0.01 and raw.steps > 0 and raw.steps % raw.worlds == 0
    raw.close()
    contestant.close()


def test_processes_get_all_states_once_and_simulate_them():
    """Shares of the raw physics, stepped here: together they are every remembered state, and end where it ends."""
    contestant = BatchedContestant(batch())
    states, targets = contestant.experience()
    assert states.shape == (96, 52) and targets.shape == (96, 19)
    ends, simulator = [], Simulator(ROBOT, TaskConfig())
    for index in range(3):
        stepper = RawStepper(ROBOT, TaskConfig(), states, targets, 3, 0.002, index)
        assert stepper.physics.worlds in (2, 32)  # a third of the environment's six, or a usual size
        stepper.physics.load(states[index::3], targets[index::3])
        size = stepper.physics.worlds
        assert stepper.step()[0] == size
        for row in range(size):
            simulator.reset(states[index::3][row, 1:27], states[index::3][row, 27:])
            simulator.step(targets[index::3][row])
            np.testing.assert_array_equal(stepper.physics._passed[row, -1, 1:27], simulator.qpos)
        assert len(stepper.physics._states) == 32
        ends.append(stepper.physics._states)
        stepper.physics.close()
    assert sorted(map(tuple, np.concatenate(ends))) == sorted(map(tuple, states))
    contestant.close()


def test_batches_go_through_the_states_in_turn():
    draw = np.random.default_rng(0)
    states = np.concatenate((np.zeros((7, 1)), np.tile(benchmark.benchmark_task(50.0).library.qpos[0], (7, 1)),
                             draw.normal(0.0, 0.1, (7, 25))), axis=1)  # fmt: skip
    physics = RawPhysics(ROBOT, TaskConfig(), threads=1)
    physics.load(states, states[:, 8:27])
    physics.worlds = 3
    physics._allocate()
    after = [(physics.step()[0], physics._passed[:, -1].copy())[1] for _ in range(3)]
    assert not np.array_equal(after[0], after[1]) and np.array_equal(after[0], after[2])  # 0-2, 3-5, 0-2
    physics.close()


def test_restarts_are_counted_per_step_of_the_batch():
    contestant = BatchedContestant(batch())
    ends = iter([2, 0, 1, 0] * 4)
    contestant.env.step = lambda action: (None, None, np.arange(6) < next(ends), None)
    contestant.turn(1e-9)  # one round of 16 steps
    assert contestant.restarts_per_step == 12 / 16
    contestant.close()


class Fixed(Recorder):
    """Has a rate."""

    def __init__(self, rate):
        super().__init__("", [])
        self.steps, self.seconds, self.worlds = rate, 1.0, 32
        self.restarts_per_step = 3.5

    def choose(self, seconds):
        pass


@pytest.mark.parametrize(
    ("rates", "arrangements", "ratios"),
    [
        ((60.0, 80.0, 100.0, 90.0), ("processes", "threads"), (0.8, 0.6)),
        ((60.0, 80.0, 100.0, 160.0), ("processes", "processes"), (0.5, 0.6)),
        ((90.0, 80.0, 100.0, 60.0), ("threads", "threads"), (0.9, 0.9)),
    ],
)
def test_the_best_is_compared_with_the_best(monkeypatch, rates, arrangements, ratios):
    threads, processes, raw_threads, raw_processes = map(Fixed, rates)
    monkeypatch.setattr(loco, "installed", lambda: False)
    monkeypatch.setattr(benchmark, "BatchedContestant", lambda env: threads)
    monkeypatch.setattr(benchmark, "RawContestant", lambda source, count: raw_threads)
    monkeypatch.setattr(benchmark, "_in_processes", lambda *_: iter((processes, raw_processes)))
    monkeypatch.setattr(benchmark, "SubprocContestant", lambda *_: Fixed(8.0))
    found = benchmark.benchmark_env(worlds=2, threads=2, seconds=0.1)
    assert (found["env_arrangement"], found["raw_arrangement"]) == arrangements
    assert (found["env_over_raw"], found["env_threads_over_raw_threads"]) == pytest.approx(ratios)
    assert found["env_steps_per_s"] == max(rates[:2]) and found["raw_steps_per_s"] == max(rates[2:])
    assert found["env_over_subproc"] == pytest.approx(max(rates[:2]) / 8.0)
    assert found["restarts_per_step"] == 3.5


def test_one_thread_needs_no_processes(monkeypatch):
    monkeypatch.setattr(loco, "installed", lambda: False)
    monkeypatch.setattr(benchmark, "_in_processes", None)
    monkeypatch.setattr(benchmark, "SubprocContestant", lambda *_: Fixed(8.0))
    found = benchmark.benchmark_env(worlds=4, threads=1, seconds=0.05)
    assert found["env_arrangement"] == found["raw_arrangement"] == "threads"
    assert found["env_processes_steps_per_s"] is found["raw_processes_steps_per_s"] is None
    assert found["env_over_raw"] == found["env_threads_over_raw_threads"]


def test_a_whole_measurement(monkeypatch, caplog):
    """More threads than cores are allowed, with a warning."""
    monkeypatch.setattr(loco, "installed", lambda: False)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found = benchmark.benchmark_env(50.0, worlds=16, threads=cores + 1, seconds=0.2, reward="loco_mujoco")
    assert f"only {cores} cores" in caplog.text
    assert found["loco_mujoco_steps_per_s"] is found["loco_mujoco_steps_per_s_equal_physics"] is None
    assert found["env_over_loco_mujoco"] is found["env_over_loco_mujoco_equal_physics"] is None
    for name in ("raw", "subproc"):
        rate = found[f"{name}_steps_per_s"]
        assert rate > 0 and found[f"env_over_{name}"] == pytest.approx(found["env_steps_per_s"] / rate)
    for side in ("env", "raw"):
        both = [found[f"{side}_{name}_steps_per_s"] for name in ("threads", "processes")]
        assert min(both) > 0 and found[f"{side}_steps_per_s"] == max(both)
        assert found[f"{side}_{found[f'{side}_arrangement']}_steps_per_s"] == max(both)
    assert found["restarts_per_step"] >= 0.0
    assert {name: found[name] for name in ("threads", "worlds", "hz", "control", "reward")} == {
        **{"threads": cores + 1, "worlds": 16, "hz": 50.0},
        **{"control": "pd", "reward": "loco_mujoco"},
    }


def test_processes_share_the_robots_and_their_steps_add_up():
    make = partial(BatchStepper, benchmark.benchmark_clip(50.0), ROBOT, TaskConfig(), 3)
    contestant = ProcessContestant("the environment", make, 2)
    contestant.turn(0.05)
    assert contestant.steps > 0 and contestant.steps % 3 == 0 and contestant.seconds >= 0.05
    contestant._processes[0].kill()
    contestant._processes[0].join()
    with pytest.raises(UserError, match=r"one of 2 processes of the environment ended early \(exit code -9\)"):
        contestant.turn(0.05)
    with pytest.raises(UserError, match="cannot be made"):
        ProcessContestant("the environment", partial(make.func, *make.args[:2], TaskConfig(hz=100.0), 1), 1)


def test_a_killed_worker_is_named_as_such():
    contestant = SubprocContestant(benchmark.benchmark_clip(50.0), ROBOT, TaskConfig(), processes=2)
    contestant.turn(0.01)
    assert contestant.steps % 2 == 0 and contestant.steps > 0
    contestant.env.processes[1].kill()
    contestant.env.processes[1].join()
    with pytest.raises(UserError, match=r"one of 2 processes of SubprocVecEnv ended early \(exit code -9\)"):
        contestant.turn(0.01)
    assert not any(process.is_alive() for process in contestant.env.processes)
    contestant.close()  # nothing is left to wait for


def test_without_the_library_the_message_names_the_extra(monkeypatch):
    monkeypatch.setattr(loco, "installed", lambda: False)
    with pytest.raises(UserError, match=r"motionlex\[loco\]"):
        loco.load_library()
    monkeypatch.setenv(loco.MODEL_VARIABLE, "nowhere.xml")
    with pytest.raises(UserError, match=r"nowhere\.xml"):
        loco.LocoPhysics.own()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--worlds", "0"), "--worlds must be at least 1, got 0"),
        (("--threads", "0"), "--threads must be at least 1, got 0"),
        (("--seconds", "0"), "--seconds must be positive, got 0"),
        (("--hz", "60"), "whole number of 5 ms steps"),
        (("--control", "wish"), "--control"),
    ],
)
def test_bad_numbers_are_refused(flags, message, capsys):
    assert main(["env", "--json", *flags]) == 2
    assert message in capsys.readouterr().err
