"""What a load test found."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from typing import Any

from armoire.client import Model
from armoire.load.plan import Plan
from armoire.load.result import Result

SCHEMA = 1


@dataclass(frozen=True)
class Report:
    """A whole load test."""

    plan: Plan
    model: Model
    started: datetime
    results: tuple[Result, ...]
    #: For each Saturation of the plan, in order: the highest rate that held; None: not even the lowest tried.
    saturations: tuple[float | None, ...] = ()
    interrupted: bool = False

    @property
    def failed(self) -> int:
        """Calls that had no good answer, those of searches aside: there it is a finding."""
        return sum(result.failed for result in self.results if not result.searching)

    def failures(self) -> str:
        """Say how many calls failed with which code, with a message of each."""
        errors: Counter[str] = Counter()
        examples: dict[str, str] = {}
        for result in (result for result in self.results if not result.searching):
            errors += Counter(result.errors)
            examples = result.examples | examples
        return "; ".join(f"{count:,} {code} ({examples[code]})" for code, count in errors.most_common())

    def to_json(self) -> dict[str, Any]:
        """Give plain values; ``schema`` grows when a name changes its meaning or goes."""
        target = self.plan.target
        return {
            "schema": SCHEMA,
            "armoire": version("armoire"),
            "started": self.started.isoformat(timespec="seconds"),
            "address": target.address,
            "rpc": self.plan.rpc,
            "model": {
                "name": self.model.name,
                "version": self.model.version,
                "image_shape": list(self.model.image_shape),
                "latent_size": self.model.latent_size,
                "provider": self.model.provider,
                "precision": self.model.precision,
            },
            "warm_up_seconds": self.plan.warm_up,
            "processes": self.plan.processes,
            "connections": self.plan.connections,
            "interrupted": self.interrupted,
            "saturations": list(self.saturations),
            "stages": [result.to_json() for result in self.results],
        }
