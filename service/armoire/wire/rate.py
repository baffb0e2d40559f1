"""How many rows a second one token may ask for: a token bucket, by the clock and without a wait."""

from __future__ import annotations

import time

from armoire.errors import RateLimited


class RateLimit:
    """A bucket of rows: what comes in each second, ``rows_per_second``, is also what it holds.

    A call of more rows than that needs a full bucket and leaves it in debt, which the following seconds pay. So a call
    of any legal size is possible, and over any T seconds no more rows are let in than T seconds bring, and one second
    or one call on top, whichever is more.
    """

    def __init__(self, rows_per_second: int) -> None:
        self.rows_per_second = rows_per_second
        self._rows = float(rows_per_second)
        self._counted = time.monotonic()

    def take(self, rows: int) -> None:
        """Let ``rows`` rows pass.

        Raises:
            RateLimited: they would be too many; it tells after how many seconds they would not. Nothing was taken.
        """
        now, rate = time.monotonic(), self.rows_per_second
        self._rows = min(rate, self._rows + (now - self._counted) * rate)
        self._counted = now
        if (lacking := min(rows, rate) - self._rows) > 0:
            raise RateLimited(
                f"{rows} rows came too early: the token may ask for {rate} a second; "
                f"try again in {lacking / rate:.3g} s",
                retry_after=lacking / rate,
            )
        self._rows -= rows
