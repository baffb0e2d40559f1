"""A server as a process of its own: a crash is seen, its log is read, and its memory is its own."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ARMOIRE = (sys.executable, "-m", "armoire.cli")
START_SECONDS, STOP_SECONDS = 60.0, 30.0
READY = re.compile(r"serving .* on (\S+:\d+) by .*; metrics on (http://\S+)")
# The line of a call, whatever its caller sent: nothing else of a stranger comes into the log.
CALL = re.compile(
    r"\d\d:\d\d:\d\d INFO    [A-Za-z]+ [A-Z_]+ \d+\.\d ms request=[A-Za-z0-9._:-]{1,64}( caller=\S+)?( .*)?"
)
# Models that come and go.
CHANGE = re.compile(
    r"\d\d:\d\d:\d\d INFO    (serving \S+|\S+ is (removed|replaced); .*|the memory of the old \S+ is given back)"
)
# What gRPC's C++ writes of headers that it cannot read.
CORE = re.compile(r"[EW]\d{4} \d\d:\d\d:\d\d\.\d{6} +\d+ \S+\.cc:\d+\] .*")
# What gRPC prints past any log where a caller goes while it is told that it cannot be understood.
GONE = re.compile(r"Traceback \(most recent call last\):\n(  .*\n)+\S*ExecuteBatchError: .*\n")
SERIES = re.compile(r"^([a-z_]+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)


@dataclass(frozen=True)
class Sample:
    """What a process holds at one moment."""

    rss_bytes: int
    fds: int
    threads: int


class ServerProcess:
    """A running `armoire serve` on loopback."""

    def __init__(self, *arguments: str, program: Sequence[str] = ARMOIRE) -> None:
        """Start it with flags, and wait until it is ready; ``program`` is what runs `serve`."""
        ports = ("--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0")
        self._process = subprocess.Popen(
            [*program, "serve", *ports, *arguments],
            env={name: value for name, value in os.environ.items() if not name.startswith("ARMOIRE_")},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="backslashreplace",
        )
        self.address = self.metrics_url = ""
        #: Lines of the log that are neither about one call nor gRPC's own.
        self.strange_lines: list[str] = []
        self._ready = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if not self._ready.wait(START_SECONDS) or not self.address:
            self.kill()
            raise AssertionError(f"the server did not start: {self.strange_lines}")
        self.strange_lines.clear()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    @property
    def exit_status(self) -> int | None:
        """None while it runs; negative: the signal that ended it."""
        return self._process.poll()

    def sample(self) -> Sample:
        """Look at its memory, file descriptors and threads."""
        return sample(self.pid)

    def series(self, name: str) -> dict[str, float]:
        """Read the series of a metric: labels, as Prometheus writes them, to values."""
        with urllib.request.urlopen(self.metrics_url, timeout=30) as reply:
            found = SERIES.findall(reply.read().decode())
        return {labels: float(value) for metric, labels, value in found if metric == name}

    def answered(self) -> Counter[str]:
        """Give how many calls it says that it answered, by status code."""
        codes: Counter[str] = Counter()
        for labels, value in self.series("armoire_requests_total").items():
            match = re.search(r'code="([A-Z_]+)"', labels)
            assert match
            codes[match[1]] += int(value)
        return codes

    def complaints(self) -> str:
        """Give what the log has beside the lines of calls."""
        return GONE.sub("", "".join(f"{line}\n" for line in self.strange_lines))

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def stop(self) -> int:
        """Ask it to end, and give its exit status."""
        self._process.send_signal(signal.SIGTERM)
        try:
            status = self._process.wait(STOP_SECONDS)
        finally:
            self.kill()
        return status

    def kill(self) -> None:
        """End it for certain."""
        self._process.kill()
        self._process.wait()
        self._reader.join(STOP_SECONDS)

    def _read(self) -> None:
        assert self._process.stderr
        for line in self._process.stderr:
            if found := READY.search(line):
                self.address, self.metrics_url = found[1], found[2]
                self._ready.set()
            elif not any(form.fullmatch(line.rstrip("\n")) for form in (CALL, CHANGE, CORE)):
                self.strange_lines.append(line.rstrip("\n"))
        self._process.stderr.close()
        self._ready.set()


def sample(pid: int) -> Sample:
    """Look at the memory, file descriptors and threads of a process."""
    folder = Path(f"/proc/{pid}")
    status = (folder / "status").read_text()
    values: dict[str, Any] = dict(re.findall(r"^(VmRSS|Threads):\s+(\d+)", status, re.MULTILINE))
    return Sample(int(values["VmRSS"]) << 10, len(list((folder / "fd").iterdir())), int(values["Threads"]))


@contextmanager
def server_process(*arguments: str, program: Sequence[str] = ARMOIRE) -> Iterator[ServerProcess]:
    """Serve while the block runs."""
    running = ServerProcess(*arguments, program=program)
    try:
        yield running
    finally:
        running.kill()


@contextmanager
def apart(server: ServerProcess) -> Iterator[None]:
    """While the block runs, the server has the last core for itself and its callers the others, if there are two."""
    mine = os.sched_getaffinity(0)
    if len(mine) == 1:
        yield
        return
    core = {max(mine)}
    for task in Path(f"/proc/{server.pid}/task").iterdir():
        with contextlib.suppress(ProcessLookupError):  # a thread that has ended meanwhile
            os.sched_setaffinity(int(task.name), core)
    os.sched_setaffinity(0, mine - core)
    try:
        yield
    finally:
        os.sched_setaffinity(0, mine)


def until(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait until a condition holds, and tell whether it came to that in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        threading.Event().wait(0.02)
    return True
