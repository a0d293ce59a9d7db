"""How fast the whole loop is: text to torques, on one processor thread."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from motionlex.controllers.bundle import load_bundle, resolve_bundle
from motionlex.controllers.evaluation_paths import arc_path
from motionlex.controllers.latent_data import REPLAN_FRAMES
from motionlex.controllers.stack import Stack
from motionlex.data.errors import check_number

WARM_UP_S = 1.0
"""Simulated time before measuring [s]."""
TEXT_EVERY_S = 5.0
"""Time between two new texts while the loop is measured [s]."""
PATH_SPEED = 0.6
"""Speed of the path that is followed, if one is [m/s]."""
REACTIONS_S = 60.0
"""More time than commands at every frame of a segment take: a path that has ended is given up for them [s]."""


def benchmark_loop(
    bundle: Path | None = None, *, seconds: float = 10.0, threads: int = 1, seed: int = 0, path: bool = False
) -> dict[str, float]:
    """Measure the running stack.

    Args:
        bundle: Folder of a bundle; None takes the built-in one.
        seconds: Simulated time that is measured [s].
        threads: Threads of torch while measuring; segments are decided on a thread beside it.
        seed: Seed of the codes.
        path: Whether the robot also follows a path, straight on: several candidates are then drawn and compared.

    Returns:
        ``text_load_s`` (reading the text encoder, before the robot moves), ``real_time_factor`` (simulated time / time
        taken, with new words every ``TEXT_EVERY_S``), ``segment_ms_p50``, ``_p95`` and ``_p99`` (choosing,
        decoding and placing one segment, on its thread), ``waited_ms_per_segment`` (what control steps waited for it),
        ``control_ms_p50``, ``_p95`` and ``_p99`` (one control step with everything it waits for), ``text_ms`` (encoding
        a new text) and ``command_to_motion_s``: the longest time, over commands given at every frame of a segment,
        from hearing a new text to the end of the first control step that obeys it: simulated time plus encoding.
    """
    check_number("--seconds", seconds, at_least=0.5, at_most=3600)
    check_number("--threads", threads, above=0)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        stack = Stack(load_bundle(resolve_bundle(None if bundle is None else str(bundle))), seed=seed)
        began = time.perf_counter()
        stack.hearing.warm_up()
        text_load_s = time.perf_counter() - began
        stack.command("walk forward")
        if path:
            stack.follow(arc_path(PATH_SPEED, 0.0, WARM_UP_S + seconds + REACTIONS_S))
        for _ in range(round(WARM_UP_S * stack.hz)):
            stack.step()
        control: list[float] = []
        drafting = stack.drafting
        decided, waited, segments = len(drafting.decided_s), drafting.waited_s, stack.segments
        began = time.perf_counter()
        for step in range(round(seconds * stack.hz)):
            started = time.perf_counter()
            if step % round(TEXT_EVERY_S * stack.hz) == 0:
                stack.command(_new_words("walk forward"))
            stack.step()
            control.append(time.perf_counter() - started)
        total = time.perf_counter() - began
        planning, waited = drafting.decided_s[decided:], drafting.waited_s - waited
        segments = stack.segments - segments
        text_s, reaction_s = _reaction(stack)
    finally:
        torch.set_num_threads(before)
    return {
        "text_load_s": text_load_s,
        "real_time_factor": seconds / total,
        **_percentiles("segment_ms", planning),
        "waited_ms_per_segment": 1e3 * waited / segments,
        **_percentiles("control_ms", control),
        "text_ms": 1e3 * text_s,
        "command_to_motion_s": text_s + reaction_s,
        "threads": float(threads),
        "hz": float(stack.hz),
    }


def _new_words(words: str) -> str:
    """Return words that no cache has."""
    return f"{words}, please, for the {secrets.token_hex(4)} time"


def _percentiles(name: str, seconds: Sequence[float]) -> dict[str, float]:
    return {f"{name}_p{share}": 1e3 * float(np.percentile(seconds, share)) for share in (50, 95, 99)}


def _reaction(stack: Stack) -> tuple[float, float]:
    """Return the time to encode a text that was never seen [s], and the longest simulated time until it is obeyed."""
    encoding, longest = [], 0.0
    for phase in range(REPLAN_FRAMES):
        while stack.step().frame != phase + 1:
            pass
        words = _new_words("turn left on the spot")
        heard = time.perf_counter()
        stack.command(words)
        encoding.append(time.perf_counter() - heard)
        steps = 0
        while not stack.obeying:
            stack.step()
            steps += 1
        longest = max(longest, steps / stack.hz)
    return float(np.median(encoding)), longest
