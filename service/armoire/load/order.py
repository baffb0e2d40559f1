"""What a client process is told to do."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from armoire.load.pace import arrivals


@dataclass(frozen=True)
class Order:
    """One process's share of a stage. Times are those of time.monotonic, which all processes share."""

    message: bytes  # of every call
    start: float
    warm_up: float
    seconds: float
    most_calls: int
    answer_bytes: int | None = None  # of every good answer; None: not known
    callers: int = 0  # closed loop, or
    rate: float = 0.0  # open loop
    poisson: bool = True
    seed: int = 0
    share: float = 0.0

    def arrivals(self) -> Iterator[float]:
        """Give the times of an open loop's calls."""
        return arrivals(self.rate, self.start, poisson=self.poisson, seed=self.seed, share=self.share)

    def to_line(self) -> str:
        """Give a line for ``from_line``."""
        return json.dumps(asdict(self) | {"message": base64.b64encode(self.message).decode()})

    @classmethod
    def from_line(cls, line: str) -> Order:
        """Read what ``to_line`` gave."""
        values = json.loads(line)
        return cls(**values | {"message": base64.b64decode(values["message"])})
