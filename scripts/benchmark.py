"""Measure speed as ratios in one run: sampler, vae-step, env, loop."""

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from motionlex.motion_vae.benchmark import SamplerBenchmark, StepBenchmark, benchmark_sampler, benchmark_vae_step
from motionlex.scripts.common import JsonValue, run_cli


@dataclass(frozen=True, kw_only=True)
class EnvBenchmark:
    """Time the batched environment against raw physics, single environments and LocoMuJoCo's.

    Ours and raw physics are each measured as one process with all threads and as one process per thread: env_over_raw
    is the best of ours over the best of raw physics, env_threads_over_raw_threads compares one process of each. Random
    actions of 0.1 make robots fall: restarts_per_step says how many of the batch are restarted in a step.
    """

    hz: float = 50.0
    """Control rate [1/s]."""
    worlds: int = 1024
    """Robots in all; many hide the cost of a Python call, as a good batch size of raw physics does."""
    threads: int | None = None
    """Physics threads, or processes; None takes the cores."""
    seconds: float = 3.0
    """Time spent on each measurement [s]."""
    control: Literal["pd", "torque"] = "pd"
    """Motors."""
    reward: Literal["deepmimic", "beyond_mimic", "loco_mujoco"] = "deepmimic"
    """Reward of the batched environment."""


@dataclass(frozen=True, kw_only=True)
class LoopBenchmark:
    """Time the whole loop from text to torques."""

    bundle: Path | None = None
    """Bundle folder; None takes the built-in one."""
    seconds: float = 10.0
    """Simulated time that is measured [s]."""
    threads: int = 1
    """Threads of torch while measuring."""
    path: bool = False
    """Follow a path as well: several candidates are then drawn and compared."""


Benchmark = (
    Annotated[SamplerBenchmark, tyro.conf.subcommand("sampler")]
    | Annotated[StepBenchmark, tyro.conf.subcommand("vae-step")]
    | Annotated[EnvBenchmark, tyro.conf.subcommand("env")]
    | Annotated[LoopBenchmark, tyro.conf.subcommand("loop")]
)


@dataclass(frozen=True, kw_only=True)
class Flags:
    """Measure speed: sampler, vae-step, env or loop."""

    what: tyro.conf.OmitSubcommandPrefixes[Benchmark]
    """What to measure."""
    json: bool = field(default=False)
    """Print one JSON object as the last line of stdout."""


def run(flags: Flags) -> Mapping[str, JsonValue]:
    """Run one benchmark; what it needs is imported only then."""
    what = flags.what
    if isinstance(what, SamplerBenchmark):
        from motionlex.controllers.reference_sampler import hugging_face_sampler

        return benchmark_sampler(what, hugging_face_sampler)
    if isinstance(what, StepBenchmark):
        return benchmark_vae_step(what)
    if isinstance(what, LoopBenchmark):
        from motionlex.controllers.benchmark import benchmark_loop

        return benchmark_loop(**dataclasses.asdict(what))
    from motionlex.envs.benchmark import benchmark_env

    return benchmark_env(**dataclasses.asdict(what))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    # --json may stand anywhere: behind the sub-command tyro would not find it.
    if "--json" in arguments:
        arguments = ["--json", *(argument for argument in arguments if argument != "--json")]
    return run_cli(Flags, run, arguments, "motionlex benchmark")


if __name__ == "__main__":
    sys.exit(main())
