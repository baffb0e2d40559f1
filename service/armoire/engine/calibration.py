"""What batches cost on this machine, measured before anybody is served."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

from armoire.engine.graph import Graph
from armoire.engine.tickets import Cost

# Of the best rows per second: a batch size that reaches it is large enough.
USEFUL = 0.98
# What a batch costs beside its run (hand-over to a lane and back, futures, metrics): about so much.
OVERHEAD_SECONDS = 100e-6
# The first round warms up; the rest measure.
ROUNDS = 3
SECONDS = 0.03


def warm_up(graph: Graph, max_batch: int, longest: float = math.inf) -> Cost:
    """Run every batch size that is worth it, measure what one costs, and choose the largest useful one.

    The largest useful batch is the smallest that gives all but 2 % of the best rows per second: a larger one would
    only make everybody wait. Among those it is one that takes at most ``longest`` seconds where there is one. The cost
    model is the line through the fastest runs of one row and of the largest useful batch.

    Raises:
        BadBundle, BadSettings: as in Graph.prove.
    """
    sizes = graph.sizes(max_batch)
    seconds = _fastest(graph, sizes)
    allowed = [size for size in sizes if seconds[size] <= longest] or sizes[:1]
    speed = {size: size / (seconds[size] + OVERHEAD_SECONDS) for size in allowed}
    most = next(size for size in allowed if speed[size] >= USEFUL * max(speed.values()))
    graph.settle(most)
    per_row = max(seconds[most] - seconds[1], 0.0) / (most - 1) if most > 1 else 0.0
    return Cost(max(seconds[1] - per_row, 0.0), per_row, most, seconds)


def _fastest(graph: Graph, sizes: Sequence[int]) -> dict[int, float]:
    """Give the seconds of the fastest of several runs of each size.

    All sizes take turns: other work on the machine then slows a round, not a size. A batch that runs in the calling
    thread is measured by its processor time, which leaves out what others took of the core, as they do from the long
    batches.
    """
    clock = time.thread_time if graph.in_the_calling_thread else time.perf_counter
    rows = graph.zeros(max(sizes))
    best = dict.fromkeys(sizes, math.inf)
    began, rounds = time.perf_counter(), 0
    while rounds < ROUNDS or time.perf_counter() - began < SECONDS:
        for size in sizes:
            started = clock()
            graph.prove(rows[:size])
            best[size] = min(best[size], clock() - started)
        rounds += 1
    return best
