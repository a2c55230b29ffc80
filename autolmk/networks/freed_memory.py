"""The memory of freed tensors on a CPU, kept by the C library for those that follow."""

from __future__ import annotations

import ctypes
import sys
from functools import lru_cache

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
LARGEST = 32 * 2**20  # bytes of an allocation that is kept when it is freed: the most that glibc takes
KEPT = 2**30  # bytes of freed memory at the heap's end from which on they are given back


@lru_cache(maxsize=1)
def keep_freed_memory() -> bool:
    """Keep the memory of freed tensors for this process's next ones; whether the C library can.

    A step frees what it allocates, and the next one allocates it again. glibc gives blocks of a few MiB back to the
    system at once, which fills them with zeros when they are asked for again. From now on it keeps them, up to
    1 GiB; blocks above 32 MiB are given back as before. Nothing that is computed changes. On other C libraries (musl,
    macOS, Windows) nothing happens, and the result is False.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, LARGEST)) and bool(mallopt(M_TRIM_THRESHOLD, KEPT))
