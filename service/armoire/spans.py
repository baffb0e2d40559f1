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
from opentelemetry.sdk.util import BoundedList
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    Link,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    format_span_id,
    format_trace_id,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from armoire.engine.tickets import Batch, Call, Ticket

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
# While a collector is away the SDK has something to say several times for each batch of spans.
QUIET_SECONDS = 60.0
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
class TracedCall(Call):
    """A call that is sampled.

    Attributes:
        span: begun at the call's arrival.
        epoch: nanoseconds between the zero of time.monotonic() and 1970. A call keeps its own, so that its spans
            stay in order when somebody sets the clock.
        passages: of tickets that have not left yet.
    """

    span: Span
    epoch: int
    passages: dict[Ticket, Passage] = field(default_factory=dict)


class Traces:
    """The spans of one server."""

    def __init__(self, service: str, listen: str) -> None:
        """Begin to send, to where the variables say, spans of calls to ``service`` at ``listen``."""
        self._service = service
        self._resource = _resource()
        self._limits = SpanLimits()
        # No process-wide provider, and no flush at exit, which would take as long as the collector likes.
        self._provider = TracerProvider(
            resource=self._resource, span_limits=self._limits, shutdown_on_exit=False
        )
        self._processor = BatchSpanProcessor(OTLPSpanExporter())
        self._provider.add_span_processor(self._processor)
        self._scope = InstrumentationScope("armoire", version("armoire"))
        self._tracer = self._provider.get_tracer(self._scope.name, self._scope.version)
        self._server = _server_attributes(listen)
        for name in CHATTY:
            _quieten(logging.getLogger(name))

    def begin(
        self, method: str, metadata: Mapping[str, Any], request_id: str, deadline: float | None
    ) -> Call:
        """Begin the span of a call under the caller's ``traceparent``; one that is not sampled is a plain Call."""
        arrived = time.monotonic()
        epoch = time.time_ns() - _nanoseconds(arrived)
        name = f"{self._service}/{method}"
        # The sampler may ask for these. The older names of the conventions are what most tools still look for.
        attributes = {"rpc.system.name": "grpc", "rpc.system": "grpc", "rpc.method": name, **self._server}
        span = self._tracer.start_span(
            name,
            PROPAGATOR.extract(metadata, Context()),
            SpanKind.SERVER,
            attributes,
            start_time=epoch + _nanoseconds(arrived),
        )
        context = span.get_span_context()
        if not context.trace_flags.sampled:
            return Call(deadline)
        span.set_attributes({"rpc.service": self._service, "armoire.request_id": request_id})
        return TracedCall(deadline, trace=_labels(context), span=span, epoch=epoch)

    def end(self, call: Call, code: grpc.StatusCode, problem: str) -> None:
        """End the span of a call; ``problem`` is what was wrong with it."""
        if not isinstance(call, TracedCall):
            return
        number: int = code.value[0]
        call.span.set_attributes({"rpc.response.status_code": code.name, "rpc.grpc.status_code": number})
        if code in ERRORS:
            call.span.set_attribute("error.type", code.name)
            call.span.set_status(Status(StatusCode.ERROR, problem or None))
        call.span.end(call.epoch + _nanoseconds(time.monotonic()))

    def observer(self, model: str, graph: str) -> GraphSpans:
        """Give what makes the spans of one graph's queue and batches."""
        return GraphSpans(self, model, graph)

    def send(
        self,
        name: str,
        call: TracedCall,
        times: tuple[float, float],
        attributes: Mapping[str, str | int],
        links: Sequence[SpanContext] = (),
        status: Status = UNSET,
        context: SpanContext | None = None,
    ) -> None:
        """Send a span that is over: with ``context`` one without a parent, else a child of ``call``'s.

        Not by the tracer, which would take ten times as long: whether a span is wanted is known by then.

        Args:
            name: of the span.
            call: whose clock holds, and whose child the span is.
            times: beginning and end, on the clock of time.monotonic(), in seconds.
            attributes: of the span.
            links: contexts of spans that it belongs with.
            status: of the span.
            context: the span's own.
        """
        parent = None if context else call.span.get_span_context()
        self._processor.on_end(
            ReadableSpan(
                name,
                context=context or self.context(parent),
                parent=parent,
                resource=self._resource,
                attributes=attributes,
                links=BoundedList.from_seq(self._limits.max_links, [Link(each) for each in links]),
                status=status,
                start_time=call.epoch + _nanoseconds(times[0]),
                end_time=call.epoch + _nanoseconds(times[1]),
                instrumentation_scope=self._scope,
            )
        )

    def context(self, parent: SpanContext | None = None) -> SpanContext:
        """Give the context of a new span that is sampled, in a trace of its own where it has no parent."""
        ids = self._provider.id_generator
        return SpanContext(
            parent.trace_id if parent else ids.generate_trace_id(),
            ids.generate_span_id(),
            is_remote=False,
            trace_flags=parent.trace_flags if parent else TraceFlags(TraceFlags.SAMPLED),
            trace_state=parent.trace_state if parent else None,
        )

    def close(self) -> None:
        """Send what is left; this blocks for FLUSH_SECONDS at most."""
        flush = threading.Thread(target=self._provider.shutdown, name="flush-traces", daemon=True)
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
        self._attributes: dict[str, str | int] = {"armoire.model": model, "armoire.graph": graph}

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
        attributes = {
            **self._attributes,
            "armoire.rows": batch.rows,
            "armoire.padding": padding,
            "armoire.calls": len(slices),
        }
        calls = [call.span.get_span_context() for _, call in traced]
        times = (batch.started, ended)
        self._traces.send("armoire.batch", traced[0][1], times, attributes, calls, status, context)
        return _labels(context)

    def left(self, ticket: Ticket) -> None:
        """Make the spans of a call's wait and, linked to its batches, of its run."""
        call = ticket.call
        if not isinstance(call, TracedCall):
            return
        now = time.monotonic()
        attributes = {**self._attributes, "armoire.rows": len(ticket.rows)}
        self._traces.send("armoire.queue", call, (ticket.arrived, ticket.taken or now), attributes)
        if ticket.taken:
            # A caller that goes while its first batch runs leaves before the end of it.
            passage = call.passages.pop(ticket, None) or Passage(ticket.taken, now)
            times = (passage.started, passage.ended)
            self._traces.send("armoire.run", call, times, attributes, passage.batches, passage.status)


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


def _quieten(chatty: logging.Logger) -> None:
    """Let a logger speak once in QUIET_SECONDS."""
    if not any(isinstance(each, _Rarely) for each in chatty.filters):
        chatty.addFilter(_Rarely())


class _Rarely(logging.Filter):
    def __init__(self) -> None:
        super().__init__()
        self._quiet_until = 0.0

    def filter(self, record: logging.LogRecord) -> bool:  # noqa: ARG002
        now = time.monotonic()
        if now < self._quiet_until:
            return False
        self._quiet_until = now + QUIET_SECONDS
        return True
