"""What one stage found."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from armoire.load.plan import Closed, Stage
from armoire.load.tally import Durations, Tally

# From these on the client is more likely the limit than the server.
BUSY, LAG_MS, LAG_SHARE = 0.9, 3.0, 0.25


@dataclass(frozen=True)
class Quantiles:
    """Milliseconds; None where nothing was measured."""

    mean: float | None
    p50: float | None
    p90: float | None
    p99: float | None
    p999: float | None
    max: float | None

    @classmethod
    def of(cls, durations: Durations) -> Quantiles:
        """Ask a histogram."""
        return cls(durations.mean(), *(durations.quantile(percent) for percent in (50, 90, 99, 99.9, 100)))


@dataclass(frozen=True)
class Result:
    """One stage. Latency is that of good answers; queue and run are the server's own times of them.

    Calls that failed have a latency of their own: a server with too much to do should refuse at once.
    """

    stage: Stage
    seconds: float
    warm_up_calls: int
    calls: int
    answered: int
    failed: int
    errors: dict[str, int]  # by gRPC's code; WRONG_SIZE: an answer of other than the first one's bytes
    examples: dict[str, str]  # a message of each
    calls_per_second: float
    images_per_second: float
    sent_mb_per_second: float
    received_mb_per_second: float
    latency_ms: Quantiles
    failed_ms: Quantiles
    queue_ms: Quantiles
    run_ms: Quantiles
    lag_ms: Quantiles  # open loop: sent so much later than due
    client_cpu: float  # of the busiest client process: cores used
    searching: bool  # a step of a search, in which calls may fail
    warnings: tuple[str, ...] = ()

    @classmethod
    def of(cls, stage: Stage, tally: Tally, images: int, *, searching: bool) -> Result:
        """Work it out from what was counted; a call has ``images``."""
        per_second = 1 / tally.seconds if tally.seconds > 0 else 0.0
        rate = tally.completed * per_second
        result = cls(
            stage=stage,
            seconds=tally.seconds,
            warm_up_calls=tally.warm_up_calls,
            calls=tally.calls,
            answered=tally.answered,
            failed=tally.errors.total(),
            errors=dict(tally.errors),
            examples=tally.examples,
            calls_per_second=rate,
            images_per_second=rate * images,
            sent_mb_per_second=tally.sent_bytes * per_second / 1e6,
            received_mb_per_second=tally.received_bytes * per_second / 1e6,
            latency_ms=Quantiles.of(tally.latency),
            failed_ms=Quantiles.of(tally.failure),
            queue_ms=Quantiles.of(tally.queue),
            run_ms=Quantiles.of(tally.run),
            lag_ms=Quantiles.of(tally.lag),
            client_cpu=tally.cpu,
            searching=searching,
        )
        return replace(result, warnings=tuple(_warnings(result)))

    @property
    def unanswered(self) -> int:
        """Calls that nobody waited for any more after Ctrl-C."""
        return self.calls - self.answered - self.failed

    @property
    def client_is_limit(self) -> bool:
        """Whether the figures say more of the client than of the server."""
        lag, latency = self.lag_ms.p99, self.latency_ms.p50
        late = lag is not None and lag > max(LAG_MS, LAG_SHARE * (latency or 0.0))
        return late or self.client_cpu >= BUSY

    def to_json(self) -> dict[str, Any]:
        """Give plain values."""
        loop = "closed" if isinstance(self.stage, Closed) else "open"
        return {"loop": loop, **asdict(self), "unanswered": self.unanswered}


def _warnings(result: Result) -> list[str]:
    found = []
    if result.client_cpu >= BUSY:
        found.append(
            f"a client process used {result.client_cpu:.0%} of a core; give it more --processes or cores"
        )
    elif result.client_is_limit:
        found.append(
            f"the client sent 1 % of the calls {result.lag_ms.p99:.1f} ms late or later; "
            "give it more --processes or cores"
        )
    return found
