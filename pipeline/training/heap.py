"""The memory of a training on a CPU: what one step frees stays for the next, and lies in huge pages.

Both change how fast memory is, never what is computed. They are for Linux with the GNU C library; others have no
`mallopt`, and nothing is changed there.
"""

import ctypes
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

TRIM_THRESHOLD, MMAP_MAX = -1, -4  # M_TRIM_THRESHOLD and M_MMAP_MAX of <malloc.h>
NEVER = -1
MADV_HUGEPAGE = 14  # of <asm-generic/mman-common.h>
HUGE_PAGE = 2**21  # bytes, where pages are of 4 KiB

RESERVED_SHARE = 0.5  # of the machine's memory: addresses that nothing is behind until they are used


@cache
def keep_freed_memory() -> None:
    """Keep the memory that one step frees for the next, in huge pages: a seventh of a step's time went by getting it
    back.

    The C library returns large blocks, and what is free at the end of its heap, to the system, which hands them out
    again page by page, cleared.
    """
    libc = _gnu_libc()
    if libc is not None:
        libc.mallopt(TRIM_THRESHOLD, NEVER)
        libc.mallopt(MMAP_MAX, 0)
        if not addresses_count_as_memory():
            size = RESERVED_SHARE * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
            _reserve_huge_pages(libc, int(size))


def addresses_count_as_memory() -> bool:
    """Whether Linux is told to hand out no more addresses than it has memory for, so that a reserve is taken from all
    other processes."""
    told = Path("/proc/sys/vm/overcommit_memory")
    return told.exists() and told.read_text().strip() == "2"


def _gnu_libc() -> Any:
    libc: Any = ctypes.CDLL(None) if sys.platform == "linux" else None
    return libc if hasattr(libc, "mallopt") else None


def _reserve_huge_pages(libc: Any, size: int) -> None:
    """Let the heap grow by `size` bytes of addresses, and ask the system to back them by huge pages, as it does for who
    asks (/sys/kernel/mm/transparent_hugepage/enabled is `madvise` in most distributions).

    The processor looks an address up for each page, and reads ahead within one only. The C library asks by itself if
    GLIBC_TUNABLES has glibc.malloc.hugetlb=1, but only where that stands before a process begins.
    """
    libc.malloc.restype = libc.sbrk.restype = ctypes.c_void_p
    libc.malloc.argtypes, libc.sbrk.argtypes = [ctypes.c_size_t], [ctypes.c_ssize_t]
    libc.free.argtypes = [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    start = -(-libc.sbrk(0) // HUGE_PAGE) * HUGE_PAGE
    libc.free(libc.malloc(size))  # where so much is refused, that is None, and nothing has grown
    end = libc.sbrk(0)
    if end > start:
        libc.madvise(start, end - start, MADV_HUGEPAGE)
