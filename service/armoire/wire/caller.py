"""Who makes a call, and what it may ask for."""

from __future__ import annotations

from dataclasses import dataclass

from armoire.engine.tickets import Call
from armoire.errors import PermissionDenied, quoted
from armoire.wire.rate import RateLimit


@dataclass(frozen=True)
class Caller:
    """The bearer of a token, or anybody.

    Attributes:
        name: the token's, for the log; empty where no tokens are asked for.
        models: the names that it may use; None: every model.
        rate: None: as many rows as it likes.
    """

    name: str = ""
    models: frozenset[str] | None = None
    rate: RateLimit | None = None

    def may_use(self, model: str) -> bool:
        """Whether the model of that name is within its rights."""
        return self.models is None or model in self.models

    def require(self, model: str) -> None:
        """Let it use a model.

        Raises:
            PermissionDenied: the model, whether there is such a one or not, is outside its rights.
        """
        if self.models is not None and model not in self.models:
            raise PermissionDenied(
                f"token {self.name!r} may not use model {quoted(model)}; "
                f"it may use {', '.join(sorted(self.models))}"
            )

    def take(self, rows: int) -> None:
        """Let it ask for rows.

        Raises:
            RateLimited: too many for now.
        """
        if self.rate is not None:
            self.rate.take(rows)


ANYBODY = Caller()


@dataclass
class IncomingCall(Call):
    """A call as the servicer sees it: the engine's part, and who makes it."""

    caller: Caller = ANYBODY
