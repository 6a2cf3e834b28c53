"""Memory that steps free and use again."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys, torch
from mnet.training.memory import keep_freed_memory

def step():
    for _ in range(2):
        kept = [torch.ones(2**20) for _ in range(16)]  # 64 MiB, freed at the end of the round
    del kept

if sys.argv[1] == "kept":
    assert keep_freed_memory()
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_memory_freed_by_a_step_is_reused_by_the_next_one():
    kept, returned = (
        int(subprocess.run([sys.executable, "-c", FAULTS, mode], capture_output=True, text=True, check=True).stdout)
        for mode in ("kept", "returned")
    )
    assert kept < returned / 10, (kept, returned)
