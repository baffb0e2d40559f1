"""Whether a run is a soak (`make test-soak`), which takes its time, or a short one of `make test`."""

from __future__ import annotations

from hypothesis import settings

# Of each kind that is cheap, and parts of it of the others.
SOAK_EXAMPLES, SOAK_CASES = 14_000, 200_000
SHORT_EXAMPLES = 25


def is_soak() -> bool:
    """Tell whether hypothesis' profile in force is that of a soak."""
    return settings().max_examples >= SOAK_EXAMPLES
