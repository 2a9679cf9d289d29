"""The allocator setting does what it says, measured by the kernel's page-fault counter."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, torch
from frontload.model.memory import keep_freed_memory

def step():
    tensors = [torch.ones(rows, 2**20) for rows in (9, 10, 11)]

assert not {keep} or keep_freed_memory()
for _ in range(5): step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10): step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(keep):
    """Page faults of ten steps that each make and drop 120 MB, after five to settle."""
    command = [sys.executable, "-c", PROGRAM.format(keep=keep)]
    return int(subprocess.run(command, capture_output=True, check=True, text=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_freed_memory_is_used_again_without_page_faults():
    # Not zero: glibc's memalign does not always find a freed block of the same size again.
    assert page_faults(keep=True) < page_faults(keep=False) / 5
