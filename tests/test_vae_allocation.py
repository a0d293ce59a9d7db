"""Large tensors reuse their memory: counted in page faults, which the system counts by itself."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys, torch
from motionlex.motion_vae.allocation import keep_freed_memory
kept = sys.argv[1] == "keep" and keep_freed_memory(torch.device("cpu"))
def work():
    x = torch.ones(16_000_000)
    return float((x + x).sum())
for _ in range(10):  # the heap grows in the first rounds
    work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    work()
print(int(kept), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _page_faults(mode: str, device: str = "cpu") -> tuple[int, int]:
    command = [sys.executable, "-c", PROGRAM.replace('"cpu"', f'"{device}"'), mode]
    kept, faults = map(int, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    return kept, faults


GLIBC = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")


@GLIBC
def test_memory_of_large_tensors_is_not_cleared_anew_at_every_step():
    kept, faults = _page_faults("keep")
    ignored, faults_before = _page_faults("leave")
    assert (kept, ignored) == (1, 0)
    # Two tensors of 61 MiB are 31,000 pages of 4 KiB, or 61 of 2 MiB where the system takes those.
    assert faults_before > 300
    assert faults < faults_before / 10


@GLIBC
def test_other_devices_leave_the_allocator_alone():
    kept, faults = _page_faults("keep", "cuda")
    assert kept == 0 and faults > 300
