"""`armoire bench`'s machinery on a host: a load without end, seen from outside while it runs.

As a program (`python -m tests.scale.load ADDRESS RATE ROWS`) it makes the calls of an open loop, none of them tried
again and none of them balanced, tells every tenth of a second how many are answered, and at SIGINT gives the report.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from armoire.load import session
from armoire.load.plan import MOST_SECONDS, Open, Plan, Target
from armoire.load.session import Progress
from tests.scale.hosts import Host
from tests.soak.process import until

# No call that is answered in the end ends by this.
CALL_SECONDS = 60.0
# By Little's law so many calls are on the way where one takes so long; usual here is a tenth of it.
BEHIND_SECONDS = 0.25


def main() -> None:
    """Call until SIGINT."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    address, rate, rows = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])

    def tell(progress: Progress) -> None:
        print(
            json.dumps({"at": time.monotonic(), "done": progress.done, "start": progress.start}), flush=True
        )

    load = Open(rate, rows, MOST_SECONDS, "fixed")
    report = session.run(Plan((load,), Target(address, timeout=CALL_SECONDS), warm_up=0.0), tell)
    print(json.dumps(report.to_json()), flush=True)


@dataclass(frozen=True)
class Moment:
    """At that time.monotonic() so many calls were answered, and so many were due and were not."""

    at: float
    done: int
    behind: float


class Load:
    """The calls of a client on a host, for as long as they are wanted."""

    def __init__(self, host: Host, address: str, rate: float, rows: int) -> None:
        self.rate = rate
        self.moments: list[Moment] = []
        self._report: dict[str, Any] = {}
        program = (sys.executable, "-m", "tests.scale.load", address, str(rate), str(rows))
        self._process = subprocess.Popen(
            host.program(*program), stdout=subprocess.PIPE, text=True, process_group=0
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            told = json.loads(line)
            if "at" in told:
                due = max(0.0, told["at"] - told["start"]) * self.rate
                self.moments.append(Moment(told["at"], told["done"], due - told["done"]))
            else:
                self._report = told
        self._process.stdout.close()

    @property
    def done(self) -> int:
        """Calls answered so far."""
        return self.moments[-1].done if self.moments else 0

    def await_calls(self, count: int, seconds: float = 60.0) -> None:
        """Wait until so many more are answered."""
        wanted = self.done + count
        assert until(lambda: self.done >= wanted, seconds), f"{self.done} of {wanted} calls answered"

    def recovered_after(self, event: float, seconds: float = 60.0) -> float:
        """Wait until no more calls are on the way than come in BEHIND_SECONDS, for a second.

        Gives when that second began, from the event on: then whatever the event held up was answered.
        """
        most = self.rate * BEHIND_SECONDS

        def last_worse() -> float:
            return max((moment.at for moment in self.moments if moment.behind > most), default=event)

        assert until(lambda: self.moments[-1].at - max(last_worse(), event) >= 1.0, seconds), (
            f"{self.moments[-1].behind:.0f} calls are still behind"
        )
        return max(last_worse() - event, 0.0)

    def stop(self) -> dict[str, Any]:
        """End the calls, and give what `armoire bench --json` says of them."""
        self._process.send_signal(signal.SIGINT)
        self._process.wait(CALL_SECONDS)
        self._reader.join(CALL_SECONDS)
        (stage,) = self._report["stages"]
        found: dict[str, Any] = stage
        return found

    def kill(self) -> None:
        """End it for certain."""
        self._process.send_signal(signal.SIGINT)  # so that its client processes end well
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        self._process.kill()
        self._process.wait()


@contextmanager
def calling(host: Host, address: str, rate: float, rows: int = 8) -> Iterator[Load]:
    """Call while the block runs."""
    load = Load(host, address, rate, rows)
    try:
        load.await_calls(round(rate))
        yield load
    finally:
        load.kill()


if __name__ == "__main__":
    main()
