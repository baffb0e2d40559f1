"""Memory that the start took, and models that have gone."""

from __future__ import annotations

import contextlib
import ctypes
import gc


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
