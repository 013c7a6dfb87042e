"""Pages that a step has used are there for the next one."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys, torch
from pipeline.memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
step = lambda: [torch.ones(64, 256, 1024) for _ in range(2)]  # 2 × 64 MiB
for _ in range(16):  # the heap has found its size
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_large_tensors_made_again_take_pages_from_the_system_only_by_default():
    faults = {
        how: int(subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True).stdout)
        for how in ("give", "keep")
    }
    assert faults["keep"] < 100 < 1000 < faults["give"]
