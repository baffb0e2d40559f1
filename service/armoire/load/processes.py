"""The client processes, as their parent sees them."""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Self

from armoire.errors import ArmoireError, Unavailable
from armoire.load.generator import HURRY_SECONDS
from armoire.load.order import Order
from armoire.load.plan import Target
from armoire.load.tally import Tally
from armoire.load.worker import STOP

# Beyond what an order allows, before a process counts as stuck.
PATIENCE_SECONDS = 30.0
# A process that was told to end has so long.
EXIT_SECONDS = 5.0


class Processes:
    """Started at once, before anything is measured, and used for stage after stage."""

    def __init__(self, count: int, target: Target, method: str, connections: int) -> None:
        """Start them and wait until each has its connections; ``method`` is the path of the RPC that they will call.

        Raises:
            Unavailable: one has none; the text says why.
        """
        self._timeout = target.timeout
        self._said: queue.Queue[tuple[int, dict[str, Any] | None]] = queue.Queue()
        #: The stage in hand was cut short by Ctrl-C.
        self.interrupted = False
        # Ctrl-C is for the parent, which asks its children for what they have: they get a process group of their own.
        self._children = [
            subprocess.Popen(
                [sys.executable, "-P", "-m", "armoire.load.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                process_group=0,
            )
            for _ in range(count)
        ]
        for index, child in enumerate(self._children):
            threading.Thread(target=self._listen, args=(index, child), daemon=True).start()
        try:
            first = {"target": target.to_json(), "method": method, "connections": connections}
            self._tell(range(count), [json.dumps(first)] * count)
            self._collect(set(range(count)), "ready", target.timeout + PATIENCE_SECONDS)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, orders: Sequence[Order], watch: Callable[[int, int], None]) -> Tally:
        """Carry out one stage, an order for each process, and give what all counted together.

        On Ctrl-C the stage ends with what it has, and ``interrupted`` is set. ``watch`` is told the calls answered
        and failed so far.
        """
        self._tell(range(len(orders)), [order.to_line() for order in orders])
        expected = set(range(len(orders)))
        most = max(order.start + order.warm_up + order.seconds for order in orders) + self._timeout
        patience = most - time.monotonic() + PATIENCE_SECONDS
        try:
            told = self._collect(expected, "tally", patience, watch)
        except KeyboardInterrupt:
            self.interrupted = True
            self._tell(expected, [STOP] * len(expected))
            told = self._collect(expected, "tally", HURRY_SECONDS + PATIENCE_SECONDS)
        total = Tally()
        for values in told:
            total.add(Tally.from_json(values))
        return total

    def close(self) -> None:
        """End them."""
        for child in self._children:
            assert child.stdin
            with contextlib.suppress(OSError):
                child.stdin.close()
        for child in self._children:
            try:
                child.wait(EXIT_SECONDS)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
            assert child.stdout
            child.stdout.close()

    def _listen(self, index: int, child: subprocess.Popen[str]) -> None:
        assert child.stdout
        with contextlib.suppress(ValueError):  # closed meanwhile
            for line in child.stdout:
                self._said.put((index, json.loads(line)))
        self._said.put((index, None))

    def _tell(self, indices: Sequence[int] | set[int] | range, lines: Sequence[str]) -> None:
        for index, line in zip(indices, lines, strict=True):
            stdin = self._children[index].stdin
            assert stdin
            with contextlib.suppress(BrokenPipeError):  # its end is told by _listen
                stdin.write(line + "\n")
                stdin.flush()

    def _collect(
        self, expected: set[int], name: str, patience: float, watch: Callable[[int, int], None] | None = None
    ) -> list[Any]:
        """Wait until each of the ``expected`` has said ``name``, and give what they said of it."""
        progress: dict[int, tuple[int, int]] = {}
        found = []
        end = time.monotonic() + patience
        while expected:
            try:
                index, values = self._said.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                raise ArmoireError("a client process is stuck") from None
            if values is None:
                raise ArmoireError(f"client process {index + 1} has died; what it said is above")
            if "unavailable" in values:
                raise Unavailable(values["unavailable"])
            if name in values:
                found.append(values[name])
                expected.discard(index)
            elif watch and "done" in values:
                progress[index] = values["done"], values["failed"]
                done, failed = (sum(counts) for counts in zip(*progress.values(), strict=True))
                watch(done, failed)
        return found
