"""Setting of glibc's allocator by which freed memory stays with the process.

By default glibc returns large blocks to the kernel when they are freed, and the next allocation
takes page faults again. Their number depends on what else lies on the heap, so that two runs of the
same arithmetic can differ by a tenth in time.
"""

from __future__ import annotations

import ctypes
import platform

M_TRIM_THRESHOLD = -1
M_MMAP_MAX = -4
"""Names of ``mallopt``'s parameters, as in glibc's ``malloc.h``."""


def keep_memory() -> bool:
    """Allocate blocks of every size on the heap and never shrink the heap in this process.

    Returns:
        True if the C library accepted the setting; only glibc has these parameters.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, 2**31 - 1))
