"""The C library's allocator, told to keep what it is given back.

Else glibc returns large blocks to the kernel when they are freed and takes them anew, page by
page. How often depends on what else lies on its heap, so that of two runs of the same arithmetic
one may take a tenth longer than the other.
"""

from __future__ import annotations

import ctypes
import platform

M_TRIM_THRESHOLD = -1
M_MMAP_MAX = -4
"""Names of ``mallopt``'s parameters, as in glibc's ``malloc.h``."""


def keep_memory() -> bool:
    """Take blocks of every size from the heap, and never shrink it, for the rest of the process.

    Returns:
        Whether the C library took it; others than glibc know no such parameters.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, 2**31 - 1))
