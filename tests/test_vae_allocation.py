"""Large tensors reuse their memory: counted in page faults, which the system counts by itself."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys, torch
from motionlex.motion_vae.allocation import keep_freed_memory
kept = sys.argv[1] == "keep" and keep_freed_memory()
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


def _page_faults(mode: str) -> tuple[int, int]:
    output = subprocess.run([sys.executable, "-c", PROGRAM, mode], capture_output=True, text=True, check=True).stdout
    kept, faults = map(int, output.split())
    return kept, faults


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
def test_memory_of_large_tensors_is_not_cleared_anew_at_every_step():
    kept, faults = _page_faults("keep")
    ignored, faults_before = _page_faults("leave")
    assert (kept, ignored) == (1, 0)
    # Two tensors of 61 MiB are 31,000 pages of 4 KiB, or 61 of 2 MiB where the system takes those.
    assert faults_before > 300
    assert faults < faults_before / 10
