"""An OpenTelemetry collector on loopback: takes OTLP over HTTP and keeps the spans."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1 import trace_pb2


@dataclass
class Span:
    """A span, with its bytes as hexadecimal text and its attributes as a dictionary."""

    message: trace_pb2.Span

    @property
    def name(self) -> str:
        return self.message.name

    @property
    def trace(self) -> str:
        return self.message.trace_id.hex()

    @property
    def id(self) -> str:
        return self.message.span_id.hex()

    @property
    def parent(self) -> str:
        return self.message.parent_span_id.hex()

    @property
    def links(self) -> set[str]:
        return {link.span_id.hex() for link in self.message.links}

    @property
    def attributes(self) -> dict[str, object]:
        return plain(self.message.attributes)

    @property
    def start(self) -> int:
        return self.message.start_time_unix_nano

    @property
    def end(self) -> int:
        return self.message.end_time_unix_nano

    @property
    def failed(self) -> bool:
        return self.message.status.code == trace_pb2.Status.STATUS_CODE_ERROR


def plain(attributes: list[KeyValue]) -> dict[str, object]:
    """Attributes as a dictionary."""
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}


class Collector:
    """Takes spans; one that is ``silent`` takes connections and never answers until it closes."""

    def __init__(self, silent: bool = False) -> None:
        self.requests: list[ExportTraceServiceRequest] = []
        self.bodies = b""
        self.asked = threading.Event()
        self._answer = threading.Event()
        if not silent:
            self._answer.set()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector.asked.set()
                collector._answer.wait(60)
                if self.path == "/v1/traces":
                    collector.bodies += body
                    collector.requests.append(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    @property
    def spans(self) -> list[Span]:
        """All spans so far."""
        return [
            Span(span)
            for request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    @property
    def resource(self) -> dict[str, object]:
        """What the spans say of their sender."""
        return plain(self.requests[0].resource_spans[0].resource.attributes)

    def named(self, name: str) -> list[Span]:
        """The spans of a name, in the order of their beginnings."""
        return sorted((span for span in self.spans if span.name == name), key=lambda span: span.start)

    def close(self) -> None:
        self._answer.set()
        self._http.shutdown()
        self._http.server_close()


@contextmanager
def collecting(silent: bool = False) -> Iterator[Collector]:
    """Collect while the block runs."""
    collector = Collector(silent)
    try:
        yield collector
    finally:
        collector.close()
