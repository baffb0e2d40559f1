"""Spans of calls and batches, made of times that are measured anyway.

The only module that knows opentelemetry. Its SDK sends them, in a thread of its own, and reads the standard variables
itself: sampler, service name, address and headers of the collector, sizes of its queue.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import grpc
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.sdk.util import BoundedList
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    Link,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
    format_span_id,
    format_trace_id,
    get_current_span,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from armoire import logs
from armoire.engine.tickets import Batch, Ticket
from armoire.wire.caller import IncomingCall

logger = logging.getLogger("armoire.traces")
# What the semantic conventions for gRPC count as an error of a server; all other codes are the caller's affair.
ERRORS = frozenset(
    {
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }
)
UNSET = Status()
# At shutdown: a collector that is there takes a queue full of spans in less.
FLUSH_SECONDS = 5.0
# While a collector is away these have something to say several times for each batch of spans.
CHATTY = ("opentelemetry.exporter.otlp.proto.http.trace_exporter", "opentelemetry.sdk._shared_internal")
PROPAGATOR = TraceContextTextMapPropagator()


@dataclass
class Passage:
    """What ran of one ticket's rows.

    Attributes:
        started, ended: of the first and the last batch, on the clock of time.monotonic(), in seconds.
        batches: the contexts of their spans.
        status: of the last one.
    """

    started: float
    ended: float = 0.0
    batches: list[SpanContext] = field(default_factory=list)
    status: Status = UNSET


@dataclass(kw_only=True)
class TracedCall(IncomingCall):
    """A call that is sampled.

    Attributes:
        context: of its span.
        parent: the span's parent, which is the caller's; None: there is none.
        arrived: when the span begins, on the clock of time.monotonic(), in seconds.
        epoch: nanoseconds between the zero of time.monotonic() and 1970. A call keeps its own, so that its spans
            stay in order when somebody sets the clock.
        attributes: of its span.
        passages: of tickets that have not left yet.
    """

    context: SpanContext
    parent: SpanContext | None
    arrived: float
    epoch: int
    attributes: dict[str, Any]
    passages: dict[Ticket, Passage] = field(default_factory=dict)


class Traces:
    """The spans of one server.

    They are made when they are over and not by a tracer, whose spans would take the event loop several times as long.
    """

    def __init__(self, service: str, listen: str) -> None:
        """Begin to send, to where the variables say, spans of calls to ``service`` at ``listen``."""
        self._service = service
        # The older names of the conventions are what most tools still look for.
        self._attributes = {
            "rpc.system.name": "grpc",
            "rpc.system": "grpc",
            "rpc.service": service,
            **_server_attributes(listen),
        }
        self._resource = _resource()
        self._scope = InstrumentationScope("armoire", version("armoire"))
        self._max_links = SpanLimits().max_links
        # For its sampler and its ids. It would flush at exit, which takes as long as the collector likes.
        provider = TracerProvider(shutdown_on_exit=False)
        self._sampler, self._ids = provider.sampler, provider.id_generator
        self._processor = BatchSpanProcessor(OTLPSpanExporter())
        for name in CHATTY:
            logs.quieten(name)

    def begin(
        self, method: str, metadata: Mapping[str, Any], request_id: str, deadline: float | None
    ) -> IncomingCall:
        """Begin the span of a call under the caller's ``traceparent``; an unsampled one is an IncomingCall."""
        arrived = time.monotonic()
        epoch = time.time_ns() - _nanoseconds(arrived)
        came = PROPAGATOR.extract(metadata, Context())
        parent = get_current_span(came).get_span_context()
        trace_id = parent.trace_id if parent.is_valid else self._ids.generate_trace_id()
        name = f"{self._service}/{method}"
        attributes = {**self._attributes, "rpc.method": name}
        sampling = self._sampler.should_sample(came, trace_id, name, SpanKind.SERVER, attributes)
        if sampling.decision is not Decision.RECORD_AND_SAMPLE:
            return IncomingCall(deadline)
        context = self.context(trace_id, sampling.trace_state)
        return TracedCall(
            deadline,
            trace=_labels(context),
            context=context,
            parent=parent if parent.is_valid else None,
            arrived=arrived,
            epoch=epoch,
            attributes={**sampling.attributes, "armoire.request_id": request_id},
        )

    def end(self, call: IncomingCall, code: grpc.StatusCode, problem: str) -> None:
        """End the span of a call; ``problem`` is what was wrong with it."""
        if not isinstance(call, TracedCall):
            return
        number: int = code.value[0]
        call.attributes |= {"rpc.response.status_code": code.name, "rpc.grpc.status_code": number}
        status = UNSET
        if code in ERRORS:
            call.attributes["error.type"] = code.name
            status = Status(StatusCode.ERROR, problem or None)
        self.send(
            str(call.attributes["rpc.method"]),
            call,
            (call.arrived, time.monotonic()),
            attributes=call.attributes,
            status=status,
            kind=SpanKind.SERVER,
            context=call.context,
            parent=call.parent,
        )

    def observer(self, model: str, graph: str) -> GraphSpans:
        """Give what makes the spans of one graph's queue and batches."""
        return GraphSpans(self, model, graph)

    def context(self, trace_id: int = 0, trace_state: TraceState | None = None) -> SpanContext:
        """Give the context of a new span that is sampled, in a trace of its own where none is named."""
        return SpanContext(
            trace_id or self._ids.generate_trace_id(),
            self._ids.generate_span_id(),
            is_remote=False,
            trace_flags=TraceFlags(TraceFlags.SAMPLED),
            trace_state=trace_state,
        )

    def send(
        self,
        name: str,
        call: TracedCall,
        times: tuple[float, float],
        *,
        attributes: Mapping[str, Any],
        context: SpanContext,
        parent: SpanContext | None,
        links: Sequence[SpanContext] = (),
        status: Status = UNSET,
        kind: SpanKind = SpanKind.INTERNAL,
    ) -> None:
        """Hand a span that is over to the SDK's thread.

        Args:
            name: of the span.
            call: whose clock holds.
            times: beginning and end, on the clock of time.monotonic(), in seconds.
            attributes: of the span.
            context: its own.
            parent: its parent's; None: it has none.
            links: those of spans that it belongs with.
            status: of the span.
            kind: of the span.
        """
        self._processor.on_end(
            ReadableSpan(
                name,
                context=context,
                parent=parent,
                resource=self._resource,
                attributes=attributes,
                links=self._links(links),
                kind=kind,
                status=status,
                start_time=call.epoch + _nanoseconds(times[0]),
                end_time=call.epoch + _nanoseconds(times[1]),
                instrumentation_scope=self._scope,
            )
        )

    def _links(self, contexts: Sequence[SpanContext]) -> Sequence[Link]:
        links = [Link(context) for context in contexts]
        if self._max_links is None or len(links) <= self._max_links:
            return links
        return BoundedList.from_seq(self._max_links, links)  # which counts what it leaves out

    def close(self) -> None:
        """Send what is left; this blocks for FLUSH_SECONDS at most."""
        flush = threading.Thread(target=self._processor.shutdown, name="flush-traces", daemon=True)
        flush.start()
        flush.join(FLUSH_SECONDS)
        if flush.is_alive():
            logger.warning(
                "the collector did not take the last spans within %.0f s: they are lost", FLUSH_SECONDS
            )


class GraphSpans:
    """The spans of one graph's queue and batches: an Observer."""

    def __init__(self, traces: Traces, model: str, graph: str) -> None:
        self._traces = traces
        self._attributes = {"armoire.model": model, "armoire.graph": graph}

    def ran(self, batch: Batch, padding: int, error: Exception | None) -> dict[str, str] | None:
        """Make the span of a batch. It belongs to no call, and is linked to those of its calls that are sampled."""
        slices = [(part.ticket, part.ticket.call) for part in batch.slices]
        traced = [(ticket, call) for ticket, call in slices if isinstance(call, TracedCall)]
        if not traced:
            return None
        context = self._traces.context()
        status = UNSET if error is None else Status(StatusCode.ERROR, type(error).__name__)
        ended = batch.ended or time.monotonic()
        for ticket, call in traced:
            passage = call.passages.setdefault(ticket, Passage(batch.started))
            passage.ended, passage.status = ended, status
            passage.batches.append(context)
        sizes = {"armoire.rows": batch.rows, "armoire.padding": padding, "armoire.calls": len(slices)}
        self._traces.send(
            "armoire.batch",
            traced[0][1],
            (batch.started, ended),
            attributes={**self._attributes, **sizes},
            context=context,
            parent=None,
            links=[call.context for _, call in traced],
            status=status,
        )
        return _labels(context)

    def left(self, ticket: Ticket) -> None:
        """Make the spans of a call's wait and, linked to its batches, of its run."""
        call = ticket.call
        if not isinstance(call, TracedCall):
            return
        now = time.monotonic()
        self._child("armoire.queue", ticket, call, Passage(ticket.arrived, ticket.taken or now))
        if ticket.taken:
            # A caller that goes while its first batch runs leaves before the end of it.
            passage = call.passages.pop(ticket, None) or Passage(ticket.taken, now)
            self._child("armoire.run", ticket, call, passage)

    def _child(self, name: str, ticket: Ticket, call: TracedCall, passage: Passage) -> None:
        self._traces.send(
            name,
            call,
            (passage.started, passage.ended),
            attributes={**self._attributes, "armoire.rows": ticket.count},
            context=self._traces.context(call.context.trace_id, call.context.trace_state),
            parent=call.context,
            links=passage.batches,
            status=passage.status,
        )


def _labels(context: SpanContext) -> dict[str, str]:
    return {"trace_id": format_trace_id(context.trace_id), "span_id": format_span_id(context.span_id)}


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)


def _resource() -> Resource:
    """Say who sends; what OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES say goes first."""
    told = OTELResourceDetector().detect().attributes
    ours = {SERVICE_NAME: "armoire", SERVICE_VERSION: version("armoire")}
    return Resource.create({key: value for key, value in ours.items() if key not in told})


def _server_attributes(listen: str) -> dict[str, str | int]:
    if listen.startswith("unix:"):
        return {"server.address": listen.removeprefix("unix:").removeprefix("//")}
    host, _, port = listen.rpartition(":")
    address: dict[str, str | int] = {"server.address": host.strip("[]")}
    return address | ({"server.port": int(port)} if int(port) else {})
