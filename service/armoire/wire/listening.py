"""Ports: gRPC's server with its bounds, where it listens, and the metrics beside it."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from http.server import HTTPServer
from typing import Any

import grpc
import prometheus_client

from armoire.config import Settings
from armoire.errors import BadSettings
from armoire.wire.certificates import Certificates

MAX_PENDING_CALLS = 8192
# Of one connection, so that none can fill the room that all have. Above it gRPC refuses as UNAVAILABLE.
MAX_CONNECTION_CALLS = MAX_PENDING_CALLS // 2
# A caller says hello within HANDSHAKE; a connection without a call is closed, and a client opens another unseen.
HANDSHAKE_MS, IDLE_MS = 20_000, 300_000
# Who connects to the metrics and asks for nothing keeps a thread for so long.
METRICS_SECONDS = 5.0
INT_MAX = 2**31 - 1


def new_server(settings: Settings) -> grpc.aio.Server:
    """Make gRPC's server, without services or ports."""
    return grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", settings.max_message_mib << 20),
            ("grpc.max_send_message_length", -1),
            # Of a burst of calls gRPC cancels what it has no room for, 1,000 by default, and nobody tries those
            # again; ours are refused by rows instead.
            ("grpc.server.max_pending_requests", MAX_PENDING_CALLS),
            ("grpc.server.max_pending_requests_hard_limit", 2 * MAX_PENDING_CALLS),
            ("grpc.max_concurrent_streams", MAX_CONNECTION_CALLS),
            ("grpc.server_handshake_timeout_ms", HANDSHAKE_MS),
            ("grpc.max_connection_idle_ms", IDLE_MS),
            ("grpc.max_connection_age_ms", _milliseconds(settings.connection_age)),
            ("grpc.max_connection_age_grace_ms", _milliseconds(settings.grace)),
            # A second server on the same port should fail, not share the traffic by chance.
            ("grpc.so_reuseport", 0),
        ],
    )


def bind(server: grpc.aio.Server, address: str, certificates: Certificates | None) -> str:
    """Let a server listen at an address, with TLS or without; gives where it does, port 0 replaced by a free one.

    Raises:
        BadSettings: it cannot.
    """
    _require_free(address)
    host, _, _ = address.rpartition(":")
    try:
        if certificates is None:
            port = server.add_insecure_port(address)
        else:
            port = server.add_secure_port(address, certificates.credentials())
    except RuntimeError:
        raise BadSettings(f"listen is {address}, which gRPC cannot serve: is the folder there?") from None
    return f"{host}:{port}" if host != "unix" else address


def serve_metrics(address: str, registry: prometheus_client.CollectorRegistry) -> tuple[HTTPServer, str]:
    """Serve Prometheus from a thread; gives what serves, and where.

    Raises:
        BadSettings: the address cannot be bound.
    """
    host, _, port = address.rpartition(":")
    try:
        http, _ = prometheus_client.start_http_server(int(port), host.strip("[]"), registry=registry)
    except (OSError, UnicodeError) as error:
        raise BadSettings(
            f"metrics_listen is {address}, where no server can be bound: {getattr(error, 'strerror', None) or error}"
        ) from None
    base: Any = http.RequestHandlerClass

    class Impatient(base):  # type: ignore[misc]  # which of its classes it is, prometheus_client keeps to itself
        timeout = METRICS_SECONDS

        def handle(self) -> None:
            with contextlib.suppress(TimeoutError):
                super().handle()

    http.RequestHandlerClass = Impatient
    return http, f"{host}:{http.server_port}"


def _milliseconds(seconds: float) -> int:
    """As gRPC takes them; 0 seconds are for ever."""
    return round(seconds * 1e3) or INT_MAX


def _require_free(address: str) -> None:
    """Find out why an address cannot be bound, which gRPC keeps to its own log."""
    host, _, port = address.rpartition(":")
    try:
        if address.startswith("unix:"):
            # gRPC would unlink the socket of a running server and take its place.
            nobody = (FileNotFoundError, NotADirectoryError, ConnectionRefusedError)
            with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(*nobody):
                probe.settimeout(1)
                probe.connect(address.removeprefix("unix:").removeprefix("//"))
                raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
            return
        found = socket.getaddrinfo(
            host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, kind, protocol, _, place = found[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
    except (OSError, UnicodeError) as error:
        raise BadSettings(
            f"listen is {address}, where no server can be bound: {getattr(error, 'strerror', None) or error}; "
            "is another one running there?"
        ) from None
