"""A client process: orders come as lines of JSON on standard input, counts go out on standard output.

It loads nothing of gRPC, protobuf or numpy. The end of its input, when the parent is gone, ends it too.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from armoire.load.generator import Generator
from armoire.load.order import Order
from armoire.load.pool import Pool
from armoire.load.route import Route

STOP = "stop"
CHUNK = 1 << 16


class Orders:
    """Lines from a file descriptor, of which nothing may be read ahead unseen."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._buffer = b""

    def fileno(self) -> int:
        """Give the file descriptor."""
        return self._descriptor

    def next(self) -> str | None:
        """Wait for a line; None at the end."""
        while b"\n" not in self._buffer:
            came = os.read(self._descriptor, CHUNK)
            if not came:
                return None
            self._buffer += came
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode()

    def stop_asked(self) -> bool:
        """Read the line that is there: the only one in the middle of a stage is to stop, as is the end."""
        return self.next() in (STOP, None)


def say(**values: Any) -> None:
    """Tell the parent."""
    print(json.dumps(values), flush=True)


def main() -> None:
    """Connect, then carry out one order after the other."""
    orders = Orders(sys.stdin.fileno())
    first = json.loads(orders.next() or "{}")
    try:
        pool = Pool(Route(**first["route"]), first["connections"])
    except (OSError, ValueError) as error:
        say(unavailable=str(error))
        return
    say(most_calls=pool.most_calls)
    while (line := orders.next()) not in (None, STOP):
        assert line is not None
        generator = Generator(
            pool, Order.from_line(line), orders, lambda done, failed: say(done=done, failed=failed)
        )
        say(tally=generator.run().to_json())
    pool.close()


if __name__ == "__main__":
    main()
