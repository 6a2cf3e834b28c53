"""What is asked of the machine."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys, torch
from mnet.provenance import keep_freed_memory

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


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc")
def test_memory_that_a_step_frees_is_there_for_the_next_one():
    kept, given_back = (
        int(subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True).stdout)
        for how in ("kept", "as is")
    )
    assert kept < given_back / 10, (kept, given_back)
