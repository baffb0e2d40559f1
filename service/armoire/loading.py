"""Bundles on this machine: the provider that takes them all, and each of them as a model that can be served."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable
from typing import TypeVar

from armoire.config import Settings
from armoire.engine import calibration, cores, golden, runtime
from armoire.engine.batching import Batcher
from armoire.engine.graph import Graph
from armoire.engine.lanes import Lanes
from armoire.engine.pacing import Pacer
from armoire.engine.providers import CUDA, Provider
from armoire.engine.tickets import Observer
from armoire.metrics import Metrics
from armoire.ops.autoencoder import Autoencoder
from armoire.ops.bundle import Bundle

logger = logging.getLogger("armoire.server")
T = TypeVar("T")
Observers = Callable[[str, str], Observer | None]
# Shares of latency_goal_ms: a call that arrives as a batch begins waits for that one, then for its own.
LONGEST_BATCH, LONGEST_DELAY = 0.5, 0.1


class StoppedError(Exception):
    """Loading was told to stop."""


class Loader:
    """Loads, verifies and measures models; everything here runs beside the event loop.

    Attributes:
        provider: where graphs run.
        lanes: the threads that run batches.
    """

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        observer: Observers,
        first: Bundle,
        stopped: threading.Event,
    ) -> None:
        """Choose the provider by trying it on ``first``; once ``stopped`` is set, ``load`` ends at its next step.

        Raises:
            BadSettings: the provider that was named does not work here.
            BadBundle: ``first`` cannot be loaded.
        """
        self._settings = settings
        self._metrics = metrics
        self._observer = observer
        self._stopped = stopped
        self.provider: Provider = runtime.choose_provider(settings.provider, first, settings.max_batch)
        # One GPU has one stream of batches; on the CPU a batch has a core for itself.
        gpu = self.provider.name == CUDA
        self.lanes = Lanes(1 if gpu else settings.threads or cores.usable())
        # ONNX Runtime keeps a CUDA graph for the thread that recorded it. On the CPU batches go on meanwhile.
        self._run: Callable[[Callable[[], T]], T] = self.lanes.call if gpu else _call

    def load(self, bundle: Bundle) -> Autoencoder:
        """Make a model of a bundle, warm and proven.

        Raises:
            BadBundle: its graphs cannot run, or do not give its golden outputs.
            BadSettings: the provider cannot do with it.
            StoppedError: it was told to stop.
        """
        manifest, provider = bundle.manifest, self.provider
        encoder, decoder = runtime.load(bundle, provider, self.lanes.count)
        self._go_on()
        deviation = self._run(lambda: golden.check(bundle, encoder, decoder, self._settings.close_pixels))
        queues = {
            name: self._queue(graph, manifest.name, name)
            for name, graph in (("encoder", encoder), ("decoder", decoder))
        }
        return Autoencoder(
            bundle, queues, provider=provider.name, precision=provider.precision, deviation=deviation
        )

    def close(self) -> None:
        """End the lanes, once they are free."""
        self.lanes.close()

    def _queue(self, graph: Graph, model: str, name: str) -> Batcher:
        """Calibrate a graph and put a queue in front of it."""
        self._go_on()
        goal = self._settings.latency_goal_ms / 1e3
        longest = LONGEST_BATCH * goal if goal else math.inf
        cost = self._run(lambda: calibration.warm_up(graph, self._settings.max_batch, longest))
        pacer = Pacer(LONGEST_DELAY * goal, cost.max_batch, cores.usable())
        return Batcher(
            graph,
            cost,
            self.lanes,
            max_queue_rows=self._settings.max_queue_rows,
            metrics=self._metrics.graph(model, name),
            pacer=pacer,
            observer=self._observer(model, name),
        )

    def _go_on(self) -> None:
        if self._stopped.is_set():
            raise StoppedError


def _call(work: Callable[[], T]) -> T:
    return work()
