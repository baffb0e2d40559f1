"""Every RPC at once, as an open loop: armoire.load's client processes, one for each RPC, minute after minute."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from armoire.client import Client
from armoire.load import request
from armoire.load.order import Order
from armoire.load.plan import RPCS, Target
from armoire.load.processes import Processes
from armoire.load.tally import Tally
from armoire.wire.channel import SERVICE

LEAD_SECONDS = 0.1
MOST_CALLS = 1 << 40
CALLERS = 8


@dataclass(frozen=True)
class Share:
    """What an RPC has of the load."""

    weight: float  # of all calls
    rows: int


#: Of a service that mostly decodes.
EVERY_RPC: Mapping[str, Share] = {
    rpc: Share(weight, rows)
    for rpc, weight, rows in zip(RPCS, (0.5, 0.15, 0.15, 0.05, 0.1, 0.05), (8, 8, 8, 8, 8, 1), strict=True)
}


class Mixture:
    """The client processes; made once, used for stage after stage."""

    def __init__(self, address: str, shares: Mapping[str, Share], stack: ExitStack) -> None:
        """Start them; ``stack`` ends them."""
        target = Target(address)
        with Client(address) as client:
            model = client.models()[0]
        self._shares = shares
        self._messages = {rpc: request.build(rpc, model, target, share.rows) for rpc, share in shares.items()}
        self._processes = {
            rpc: stack.enter_context(Processes(1, target, f"/{SERVICE}/{rpc}", 1)) for rpc in shares
        }

    def capacity(self, seconds: float) -> tuple[float, Tally]:
        """Measure how many calls a second of this mixture a server answers, and give all that was counted.

        Each RPC alone in a closed loop first: of calls that take 1/c seconds of a server each, mixed by weight, it
        answers 1 / sum(weight / c).
        """
        total, cost = Tally(), 0.0
        for rpc, share in self._shares.items():
            tally = self._run(rpc, seconds, callers=CALLERS)
            cost += share.weight / (tally.completed / tally.seconds)
            total.add(tally)
        return 1 / cost, total

    def stage(self, rate: float, seconds: float, seed: int) -> Tally:
        """Send ``rate`` calls a second in all, due by Poisson processes, and give all that was counted."""
        tallies: list[Tally] = []

        def work(rpc: str, number: int) -> None:
            weight = self._shares[rpc].weight
            tallies.append(self._run(rpc, seconds, rate=rate * weight, seed=seed + number))

        threads = [
            threading.Thread(target=work, args=(rpc, 1000 * number))
            for number, rpc in enumerate(self._shares)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(tallies) == len(threads), "a client process has failed"
        return added(tallies)

    def _run(self, rpc: str, seconds: float, callers: int = 0, rate: float = 0.0, seed: int = 0) -> Tally:
        order = Order(
            message=self._messages[rpc],
            start=time.monotonic() + LEAD_SECONDS,
            warm_up=0.0,
            seconds=seconds,
            most_calls=MOST_CALLS,
            callers=callers,
            rate=rate,
            seed=seed,
        )
        return self._processes[rpc].run([order], lambda *_: None)


def added(tallies: Sequence[Tally]) -> Tally:
    """Add tallies up."""
    total = Tally()
    for tally in tallies:
        total.add(tally)
    return total
