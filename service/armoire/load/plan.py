"""What a load test does: whom it calls, with which RPC, and how hard."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from armoire.errors import InvalidArgument

RPCS = ("Decode", "Encode", "Sample", "Interpolate", "AddAttribute", "ListModels")
# Nothing here is for ever: an hour a stage, and counts that a machine of today can still hold.
MOST_SECONDS, MOST_CALLERS, MOST_RATE, MOST_PROCESSES, MOST_CONNECTIONS = 3600.0, 100_000, 1e6, 64, 128


@dataclass(frozen=True)
class Tls:
    """PEM files: authorities to trust (None: the system's), and this client's own for mTLS."""

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None


@dataclass(frozen=True)
class Target:
    """A server and a model of it. ``address`` is HOST:PORT; ``timeout`` is each call's, in seconds."""

    address: str = "127.0.0.1:50051"
    timeout: float = 30.0
    tls: Tls | None = None
    token: str | None = None
    model: str = ""
    version: str = ""

    def to_json(self) -> dict[str, Any]:
        """Give what ``from_json`` takes."""
        tls = self.tls and {name: path and str(path) for name, path in vars(self.tls).items()}
        return asdict(self) | {"tls": tls}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Target:
        """Read what ``to_json`` gave, in a client process."""
        tls = values["tls"]
        tls = tls and Tls(**{name: path and Path(path) for name, path in tls.items()})
        return cls(**values | {"tls": tls})


@dataclass(frozen=True)
class Closed:
    """Closed loop: ``callers`` side by side, each sends its next call when the last is answered."""

    callers: int
    rows: int = 8
    seconds: float = 5.0

    def __post_init__(self) -> None:
        _check("callers", self.callers, 1, MOST_CALLERS)
        _check_call(self.rows, self.seconds)


@dataclass(frozen=True)
class Open:
    """Open loop: ``rate`` calls a second, sent when they are due whether the last are answered or not.

    Latency counts from the moment at which a call was due, so that a stall is seen by every call which it delayed.
    """

    rate: float
    rows: int = 8
    seconds: float = 5.0
    arrivals: Literal["poisson", "fixed"] = "poisson"

    def __post_init__(self) -> None:
        _check("rate", self.rate, 1e-3, MOST_RATE)
        _check_call(self.rows, self.seconds)


@dataclass(frozen=True)
class Saturation:
    """Search the highest open-loop rate with p99 at most ``p99_ms``, nothing failed, and answers keeping up."""

    p99_ms: float
    rows: int = 8
    seconds: float = 5.0
    arrivals: Literal["poisson", "fixed"] = "poisson"

    def __post_init__(self) -> None:
        _check("p99_ms", self.p99_ms, 1e-3, 1e6)
        _check_call(self.rows, self.seconds)


Stage: TypeAlias = Closed | Open


@dataclass(frozen=True)
class Plan:
    """A load test: its loads one after the other, each after ``warm_up`` seconds that do not count.

    A stage ends after its seconds or after ``most_calls``, whichever comes first. The calls are made by
    ``processes`` client processes with ``connections`` connections each.
    """

    loads: tuple[Closed | Open | Saturation, ...]
    target: Target = Target()
    rpc: str = "Decode"
    warm_up: float = 1.0
    processes: int = 1
    connections: int = 1
    most_calls: int = 10_000_000

    @property
    def saturations(self) -> tuple[Saturation, ...]:
        """The searches among the loads."""
        return tuple(load for load in self.loads if isinstance(load, Saturation))

    def __post_init__(self) -> None:
        if self.rpc not in RPCS:
            raise InvalidArgument(f"{self.rpc!r} came; one of {', '.join(RPCS)} is wanted", "rpc")
        _check("warm_up", self.warm_up, 0, MOST_SECONDS)
        _check("processes", self.processes, 1, MOST_PROCESSES)
        _check("connections", self.connections, 1, MOST_CONNECTIONS)
        _check("most_calls", self.most_calls, self.processes, 1 << 40)
        _check("timeout", self.target.timeout, 1e-3, MOST_SECONDS)


def _check_call(rows: int, seconds: float) -> None:
    _check("rows", rows, 1, 1 << 31)
    _check("seconds", seconds, 1e-3, MOST_SECONDS)


def _check(name: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise InvalidArgument(f"{value:g} came; {least:g} to {most:g} is wanted", name)
