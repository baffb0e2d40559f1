"""Every Prometheus metric, defined once. Histograms, so that they add up over replicas."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)

from armoire import errors

# From a small decoder's single row to an overloaded queue.
SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
REASONS = sorted(
    {"bytes", "files"} | {kind.reason for name in errors.__all__ if (kind := getattr(errors, name)).reason}
)


@dataclass(frozen=True)
class GraphMetrics:
    """The metrics of one graph of one model, labels already bound."""

    queue_duration: Histogram
    inference_duration: Histogram
    batch_rows: Histogram
    rows: Counter
    pending_rows: Gauge
    padding_rows: Counter
    deadline_missed: Counter
    failed_batches: Counter


class Metrics:
    """The metrics of one server, in a registry of their own."""

    def __init__(self) -> None:
        # A second series for each histogram, with the time of its making, is of no use here.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        graph = ("model", "graph")
        self._requests = Counter(
            "armoire_requests_total", "Calls answered.", ("method", "code"), registry=registry
        )
        self._request_duration = Histogram(
            "armoire_request_duration_seconds",
            "From the arrival of a call that was not refused to its answer.",
            ("method",),
            buckets=SECONDS,
            registry=registry,
        )
        self._queue_duration = Histogram(
            "armoire_queue_duration_seconds",
            "Wait of a call's first row for a batch.",
            graph,
            buckets=SECONDS,
            registry=registry,
        )
        self._inference_duration = Histogram(
            "armoire_inference_duration_seconds",
            "Run of one batch.",
            graph,
            buckets=SECONDS,
            registry=registry,
        )
        self._batch_rows = Histogram(
            "armoire_batch_rows", "Rows of one batch.", graph, buckets=ROWS, registry=registry
        )
        self._rows = Counter("armoire_rows_total", "Rows run.", graph, registry=registry)
        self._pending_rows = Gauge(
            "armoire_pending_rows", "Rows taken and not yet answered.", graph, registry=registry
        )
        self.lanes = Gauge("armoire_lanes", "Batches that run side by side.", registry=registry)
        self.max_queue_rows = Gauge(
            "armoire_max_queue_rows", "Most unanswered rows in front of one graph.", registry=registry
        )
        self._padding_rows = Counter(
            "armoire_padding_rows_total", "Rows run only to fill a batch size.", registry=registry
        )
        self._rejected = Counter(
            "armoire_rejected_total", "Calls refused, by reason.", ("reason",), registry=registry
        )
        self._deadline_missed = Counter(
            "armoire_deadline_missed_total", "Calls whose deadline passed in the queue.", registry=registry
        )
        self._failed_batches = Counter(
            "armoire_failed_batches_total", "Batches that the graph could not run.", graph, registry=registry
        )
        self.serving = Gauge("armoire_serving", "1 while health says SERVING.", registry=registry)
        self.canaries = Counter(
            "armoire_canaries_total",
            "Golden checks of served models, by outcome.",
            ("outcome",),
            registry=registry,
        )
        self.largest_batch = Gauge(
            "armoire_largest_batch_rows",
            "Rows of the largest useful batch, measured at start.",
            graph,
            registry=registry,
        )
        self.batch_cost = Gauge(
            "armoire_batch_cost_seconds",
            "A batch of so many rows on one lane, measured at start.",
            (*graph, "rows"),
            registry=registry,
        )
        self.longest_delay = Gauge(
            "armoire_longest_delay_seconds",
            "What a batch may wait for more rows while the processor is saturated.",
            graph,
            registry=registry,
        )
        self.close_pixels = Gauge(
            "armoire_close_pixels_ratio",
            "Share of the decoder's pixels within 1 of 255 of the golden ones, measured at start.",
            ("model", "version"),
            registry=registry,
        )
        self.model_changes = Counter(
            "armoire_model_changes_total",
            "Bundles that came, went or could not be taken while serving, by outcome.",
            ("outcome",),
            registry=registry,
        )
        self.certificate_expiration = Gauge(
            "armoire_tls_certificate_expiration_timestamp_seconds",
            "When the first certificate of a file expires, in unix time.",
            ("setting",),
            registry=registry,
        )
        self.provider_fallback = Gauge(
            "armoire_provider_fallback",
            "1 where provider auto took the CPU of an ONNX Runtime that has CUDA.",
            registry=registry,
        )
        self.model_info = Gauge(
            "armoire_model_info",
            "1 for each model that is ready.",
            ("model", "version", "provider", "precision"),
            registry=registry,
        )
        # From the first scrape on: a series that begins with its first event has no rise that an alert could see.
        for counter, values in (
            (self._rejected, REASONS),
            (self.canaries, ("passed", "failed")),
            (self.model_changes, ("loaded", "removed", "refused")),
        ):
            for value in values:
                counter.labels(value)

    @functools.cache  # noqa: B019 - lives as long as the server
    def _answers(self, method: str, code: str) -> Counter:
        return self._requests.labels(method, code)

    @functools.cache  # noqa: B019
    def _durations(self, method: str) -> Histogram:
        return self._request_duration.labels(method)

    @functools.cache  # noqa: B019
    def _refusals(self, reason: str) -> Counter:
        return self._rejected.labels(reason)

    # Looking labels up anew for each call would cost more than counting does.
    def answered(self, method: str, code: str, seconds: float, exemplar: dict[str, str] | None) -> None:
        """Count a call; ``exemplar`` are the labels of its trace, which lead from its bucket to its spans."""
        self._answers(method, code).inc()
        self._durations(method).observe(seconds, exemplar)

    def refused(self, method: str, code: str, reason: str) -> None:
        """Count a call that was refused.

        Its time is left out: an overloaded server says no within milliseconds and would look the faster for it.
        """
        self._answers(method, code).inc()
        self.rejected(reason)

    def rejected(self, reason: str) -> None:
        """Count a refusal, of a call that is counted elsewhere or nowhere."""
        self._refusals(reason).inc()

    def calibrated(
        self, model: str, graph: str, cost: Mapping[int, float], largest_batch: int, longest_delay: float
    ) -> None:
        """Publish what warm-up measured (rows to seconds) and chose."""
        for rows, seconds in cost.items():
            self.batch_cost.labels(model, graph, rows).set(seconds)
        self.largest_batch.labels(model, graph).set(largest_batch)
        self.longest_delay.labels(model, graph).set(longest_delay)

    def graph(self, model: str, graph: str) -> GraphMetrics:
        """Bind the labels of one graph."""
        return GraphMetrics(
            queue_duration=self._queue_duration.labels(model, graph),
            inference_duration=self._inference_duration.labels(model, graph),
            batch_rows=self._batch_rows.labels(model, graph),
            rows=self._rows.labels(model, graph),
            pending_rows=self._pending_rows.labels(model, graph),
            padding_rows=self._padding_rows,
            deadline_missed=self._deadline_missed,
            failed_batches=self._failed_batches.labels(model, graph),
        )
