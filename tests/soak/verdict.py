"""What a run of hostile input came to: cases by kind and by status code, and how the server stood afterwards."""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Verdict:
    """Counts of a whole run."""

    codes: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    seconds: Counter[str] = field(default_factory=Counter)
    #: What was looked at after the cases, by name.
    findings: dict[str, Any] = field(default_factory=dict)

    def count(self, kind: str, code: str) -> None:
        """Count one case."""
        self.codes[kind][code] += 1

    @contextmanager
    def timed(self, kind: str) -> Iterator[None]:
        """Add the time of the block to that of a kind."""
        began = time.monotonic()
        yield
        self.seconds[kind] += time.monotonic() - began

    @property
    def cases(self) -> int:
        return sum(codes.total() for codes in self.codes.values())

    def table(self) -> str:
        """Give a line for each kind, most frequent codes first."""
        lines = []
        for kind, codes in self.codes.items():
            speed = codes.total() / self.seconds[kind] if self.seconds[kind] else 0.0
            told = ", ".join(f"{code} {count:,}" for code, count in codes.most_common())
            lines.append(f"{kind:<32} {codes.total():>9,} {speed:>7,.0f}/s  {told}")
        seconds = self.seconds.total()
        speed = self.cases / seconds if seconds else 0.0
        lines.append(f"{'all':<32} {self.cases:>9,} {speed:>7,.0f}/s")
        lines += [f"{name}: {value}" for name, value in self.findings.items()]
        return "\n".join(lines)

    def write(self, path: Path) -> None:
        """Write it all as JSON."""
        kinds = {
            kind: {"cases": codes.total(), "seconds": round(self.seconds[kind], 2), "codes": dict(codes)}
            for kind, codes in self.codes.items()
        }
        path.write_text(
            json.dumps({"cases": self.cases, "kinds": kinds, "findings": self.findings}, indent=2) + "\n"
        )
