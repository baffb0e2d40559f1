"""Memory: one heap, and what nobody needs any more goes back to the system."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os

M_ARENA_MAX = -8  # of mallopt(3)


def one_heap() -> None:
    """Let all threads allocate from one heap, unless MALLOC_ARENA_MAX says otherwise; before there are others.

    The C library would give each thread its own, and what a burst leaves behind in each is of no use to the others.
    """
    if "MALLOC_ARENA_MAX" not in os.environ:
        with contextlib.suppress(AttributeError):  # glibc's alone
            ctypes.CDLL(None).mallopt(M_ARENA_MAX, 1)


def settle() -> None:
    """Leave a start behind: what it made is no garbage, and what it freed is wanted by nobody here."""
    # A full collection among the modules and models of the start would stop the event loop for 20 ms.
    gc.freeze()
    gc.enable()
    trim()


def trim() -> None:
    """Give free memory back to the system."""
    # The C library keeps what parsing the graphs took, tens of MB.
    with contextlib.suppress(AttributeError):  # glibc's alone
        ctypes.CDLL(None).malloc_trim(0)
