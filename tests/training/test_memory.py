"""Memory that a step frees and the next one reuses."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, torch
from mnet.training.memory import keep_freed_memory

def step():
    for _ in range(2):
        kept = [torch.ones(2**20) for _ in range(16)]  # 64 MiB, freed at the end of the round
    del kept

def faults():
    step()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

returned = faults()
assert keep_freed_memory()
print(faults(), returned)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc, as on Debian, Ubuntu and Fedora")
def test_memory_freed_by_a_step_is_reused_by_the_next_one():
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    kept, returned = map(int, done.stdout.split())
    assert kept < returned / 10, (kept, returned)
