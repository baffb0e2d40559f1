"""The connections of one client process."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from armoire.load.link import Link
from armoire.load.route import Route

# Before a test there is time; in the middle of one, everything else waits.
CONNECT_SECONDS, AGAIN_SECONDS = 5.0, 0.5


class Pool:
    """Links that take calls in turn; one that breaks or is sent away is replaced."""

    def __init__(self, route: Route, connections: int) -> None:
        """Connect; errors as Link's, and ValueError for an address that is none."""
        self._route = route
        self._context = route.context()
        self._slots: list[Link | None] = []
        self._leaving: list[Link] = []
        self._turn = 0
        for index in range(connections):
            self._slots.append(Link(route, self._context, index, CONNECT_SECONDS))

    def __iter__(self) -> Iterator[Link]:
        """Go through the links that may have calls in flight."""
        yield from (link for link in self._slots if link)
        yield from self._leaving

    def next(self) -> Link | None:
        """Give the link whose turn it is; None where it has no connection."""
        self._turn = (self._turn + 1) % len(self._slots)
        return self._slots[self._turn]

    @property
    def unanswered(self) -> int:
        """How many calls have no answer yet."""
        return sum(link.unanswered for link in self)

    @property
    def most_calls(self) -> int:
        """How many calls the server takes side by side on all connections."""
        return sum(link.most_calls for link in self)

    def drop(self, link: Link) -> None:
        """Forget a link that broke."""
        if link in self._leaving:
            self._leaving.remove(link)
        else:
            self._slots[self._slots.index(link)] = None

    def tend(self) -> None:
        """Replace what broke, and what the server sends away, which goes once its calls are answered."""
        for index, link in enumerate(self._slots):
            if link and link.leaving:
                self._leaving.append(link)
                self._slots[index] = None
            if self._slots[index] is None:
                with contextlib.suppress(OSError):
                    self._slots[index] = Link(self._route, self._context, index, AGAIN_SECONDS)
        for link in [link for link in self._leaving if not link.unanswered]:
            link.close()
            self._leaving.remove(link)

    def close(self) -> None:
        """Close all."""
        for link in self:
            link.close()
