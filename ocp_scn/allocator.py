"""The C library's allocator, which gives memory back that the next tensors need again."""

from __future__ import annotations

import ctypes
import os

# Parameters of glibc's mallopt(3).
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT = 2**30  # a training step of the published models frees nearly as much
_LARGEST_ON_HEAP = 2**25  # the most that glibc takes
_SETTINGS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_", "MALLOC_MMAP_MAX_")


def keep_freed_memory() -> None:
    """Have glibc keep up to 1 GiB of freed memory in this process for the next tensors.

    Memory that was given back comes again as pages to be zeroed, one fault each, which cost up to a tenth
    of a call. A process never holds more than it once used. Other C libraries stay as they are, and so does
    glibc where the environment sets when it gives memory back (MALLOC_TRIM_THRESHOLD_, GLIBC_TUNABLES, ...).
    """
    if any(name in os.environ for name in _SETTINGS) or "malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(_M_MMAP_THRESHOLD, _LARGEST_ON_HEAP)
    mallopt(_M_TRIM_THRESHOLD, _KEPT)
