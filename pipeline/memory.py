"""Freed memory stays with the process.

A step frees and asks for the same large tensors again. The C library gives blocks this large back to the system at
once, so every step has each page of them mapped and zeroed anew: a training step of UNeXt or DeepLabV3 on two cores
takes 1.4 times as long.
"""

import ctypes

# <malloc.h> of glibc
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8
NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Large blocks come from, and go back to, one heap that never shrinks; the process's peak stays its size.

    Changes no result. Returns False, having done nothing, where the C library is not glibc. Best called before threads
    are started: a thread that has its own heap already keeps it.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return all(mallopt(*option) for option in ((M_ARENA_MAX, 1), (M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, NEVER)))
