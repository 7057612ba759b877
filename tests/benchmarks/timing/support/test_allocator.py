"""Freed memory stays with the process after ``keep_memory``."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, torch
from benchmarks.timing.support.allocator import keep_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def taken():
    before = faults()
    for _ in range(20):
        torch.ones(4 * 2**20)
    return faults() - before

torch.set_num_threads(1)
given_back = taken()
assert keep_memory()
taken()
print(given_back, taken())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries know no mallopt")
def test_freed_memory_takes_few_new_page_faults():
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=300
    )
    given_back, kept = map(int, ran.stdout.split())
    assert kept < given_back / 5
