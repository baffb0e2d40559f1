"""``python -m tests.soak.leaking serve ...``: the server with a leak, for a check that must find it.

What leaks is memory, a descriptor now and then, and a thread now and then, with every call that is answered.
"""

from __future__ import annotations

import itertools
import os
import sys
import threading
from typing import Any

from armoire import cli
from armoire.metrics import Metrics

BYTES_PER_CALL = 20_000
CALLS_PER_DESCRIPTOR = 20


def main() -> int:
    """Run the command line with Metrics.answered, which every call comes to, made to keep something."""
    kept: list[object] = []
    numbers = itertools.count()
    answered = Metrics.answered

    def leak(self: Metrics, *told: Any) -> None:
        answered(self, *told)
        kept.append(os.urandom(BYTES_PER_CALL))
        if next(numbers) % CALLS_PER_DESCRIPTOR == 0:
            kept.append(os.open(os.devnull, os.O_RDONLY))
            threading.Thread(target=threading.Event().wait, daemon=True).start()

    Metrics.answered = leak  # type: ignore[method-assign]
    return cli.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
