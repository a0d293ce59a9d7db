"""How fast the whole loop is: text to torques, on one processor thread."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch

from motionlex.controllers.bundle import load_bundle, resolve_bundle
from motionlex.controllers.stack import Stack
from motionlex.data.errors import check_number

WARM_UP_S = 1.0
"""Simulated time before measuring [s]."""


def benchmark_loop(
    bundle: Path | None = None, *, seconds: float = 10.0, threads: int = 1, seed: int = 0
) -> dict[str, float]:
    """Measure the running stack.

    Args:
        bundle: Folder of a bundle; None takes the built-in one.
        seconds: Simulated time that is measured [s].
        threads: Threads of torch while measuring.
        seed: Seed of the codes.

    Returns:
        ``real_time_factor`` (simulated time / time taken), ``segment_ms_p50`` and ``segment_ms_p99`` (choosing,
        decoding and placing one segment, with its first control step), ``control_ms_p50`` (one control step without
        replanning), ``command_to_motion_s`` (from hearing a new command to the end of the first control step that obeys
        it: text encoding, one segment and physics).
    """
    check_number("--seconds", seconds, at_least=0.5, at_most=3600)
    check_number("--threads", threads, above=0)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        stack = Stack(load_bundle(resolve_bundle(None if bundle is None else str(bundle))), seed=seed)
        stack.command("walk forward")
        for _ in range(round(WARM_UP_S * stack.hz)):
            stack.step()
        planning, control = [], []
        began = time.perf_counter()
        for _ in range(round(seconds * stack.hz)):
            segments, started = stack.segments, time.perf_counter()
            stack.step()
            (planning if stack.segments > segments else control).append(time.perf_counter() - started)
        total = time.perf_counter() - began
        heard = time.perf_counter()
        stack.command("turn left on the spot, please")
        stack.step()
        obeyed = time.perf_counter() - heard
    finally:
        torch.set_num_threads(before)
    return {
        "real_time_factor": seconds / total,
        "segment_ms_p50": 1e3 * float(np.percentile(planning, 50)),
        "segment_ms_p99": 1e3 * float(np.percentile(planning, 99)),
        "control_ms_p50": 1e3 * float(np.percentile(control, 50)),
        "command_to_motion_s": obeyed,
        "threads": float(threads),
        "hz": float(stack.hz),
    }
