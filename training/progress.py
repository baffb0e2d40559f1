"""The progress bar of long work, the same everywhere."""

import sys
from collections.abc import Iterable
from typing import Any, TypeVar

from tqdm import tqdm

T = TypeVar("T")


def bar(items: Iterable[T] = (), **options: Any) -> "tqdm[T]":
    """Go through ``items``, or be told what is done, of ``total``; ``options`` are tqdm's.

    A log file gets a line every half minute.
    """
    interval = 0.2 if sys.stderr.isatty() else 30
    return tqdm(items, dynamic_ncols=True, mininterval=interval, **options)
