"""The composition root, read from top to bottom: load, wire, serve, drain."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import gc
import logging
import os
import re
import signal
import socket
from http.server import HTTPServer
from typing import TYPE_CHECKING

import grpc
import prometheus_client
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from armoire import traces
from armoire.config import Settings
from armoire.engine import cores
from armoire.engine.tickets import Observer
from armoire.errors import BadSettings, DeviceLost
from armoire.logs import CallLog
from armoire.metrics import Metrics
from armoire.reloading import Reloader
from armoire.repository import Repository
from armoire.v1 import armoire_pb2 as pb
from armoire.watchdog import Watchdog
from armoire.wire.certificates import Certificates
from armoire.wire.interceptor import SERVICE, CallInterceptor
from armoire.wire.servicer import LatentServicer
from armoire.wire.standard import Guard, GuardedHealth, GuardedReflection
from armoire.wire.tokens import Tokens

if TYPE_CHECKING:
    from armoire.spans import Traces

logger = logging.getLogger("armoire.server")
MAX_PENDING_CALLS = 8192
# Of one connection, so that none can fill the room that all have. Above it gRPC refuses as UNAVAILABLE.
MAX_CONNECTION_CALLS = MAX_PENDING_CALLS // 2
# A caller says hello within HANDSHAKE; a connection without a call is closed, and a client opens another unseen.
HANDSHAKE_MS, IDLE_MS = 20_000, 300_000
INT_MAX = 2**31 - 1
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
RPCS = frozenset(method.name for method in pb.DESCRIPTOR.services_by_name["LatentService"].methods)


class Server:
    """One server on one event loop: ``await start()``, and in the end ``await stop()``.

    Attributes:
        address: where gRPC answers, HOST:PORT.
        metrics_address: where Prometheus is answered.
        lost: set once the device is gone for good.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._loop: asyncio.AbstractEventLoop
        self._repository: Repository
        # Apart, so that a token is refused while a model is being loaded.
        self._reloaders = [
            Reloader(settings.reload_seconds, look) for look in (self._look_at_access, self._look_at_models)
        ]
        self._tokens: Tokens | None = None
        self._certificates: Certificates | None = None
        self._watchdog: Watchdog | None = None
        self._calls = CallLog(settings.log_format)
        self._metrics = Metrics()
        self._health = health.aio.HealthServicer()
        self._traces: Traces | None
        self._interceptor: CallInterceptor
        self._servicer: LatentServicer
        self._grpc: grpc.aio.Server
        self._http: HTTPServer | None = None
        self.address = settings.listen
        self.metrics_address = settings.metrics_listen
        self.lost = asyncio.Event()

    async def start(self) -> None:
        """Load the bundles, listen as NOT_SERVING, warm up and verify the graphs, then be SERVING.

        Raises:
            BadSettings: a setting that cannot be had here.
            BadBundle: a bundle that cannot be served.
        """
        exposed = not re.match(r"127\.|localhost:|\[::1\]|unix:", self._settings.listen)
        if self._settings.tokens_file and not self._settings.tls_cert and exposed:
            logger.warning("tokens will travel in plain text: set tls_cert and tls_key")
        self._loop = asyncio.get_running_loop()
        self._repository = Repository(self._settings, self._metrics, self._observer, self._freed)
        self._wire()
        try:
            await self._listen()
            catalogue = self._servicer.catalogue = await asyncio.to_thread(self._repository.load)
        except BaseException:
            await self.stop()
            raise
        await self._report(SERVING)
        for reloader in self._reloaders:
            reloader.start()
        loader = self._repository.loader
        self._watchdog = Watchdog(
            self._settings,
            self._metrics,
            loader.lanes,
            models=lambda: self._servicer.catalogue or (),
            report=lambda healthy: self._report(SERVING if healthy else NOT_SERVING),
            lost=self.lost.set,
        )
        self._watchdog.start()
        logger.info(
            "serving %s on %s by %s (%s, %d lanes); metrics on http://%s/metrics",
            ", ".join(model.where for model in catalogue),
            self.address,
            loader.provider.name,
            loader.provider.precision,
            loader.lanes.count,
            self.metrics_address,
        )

    async def stop(self) -> None:
        """Drain: health first, then new calls are refused and those in flight are answered, then gRPC stops."""
        for reloader in self._reloaders:
            await reloader.stop()
        if self._watchdog is not None:
            await self._watchdog.stop()
        # Nothing comes between: who has read NOT_SERVING is answered no more.
        await self._health.enter_graceful_shutdown()
        if self._servicer.catalogue is not None:  # else nobody has been served
            await self._interceptor.drain(self._settings.grace)
        await self._grpc.stop(0)
        self._repository.close()
        self._servicer.close()
        self._calls.flush()
        if self._http is not None:
            await asyncio.to_thread(self._http.shutdown)
            self._http.server_close()
        if self._traces is not None:
            await asyncio.to_thread(self._traces.close)

    def reload(self) -> None:
        """Look at once for changes of what the server was started with."""
        for reloader in self._reloaders:
            reloader.now()

    def hurry(self) -> None:
        """Cut off the calls that a drain waits for."""
        self._interceptor.hurry()

    def _wire(self) -> None:
        settings = self._settings
        limits = pb.Limits(
            max_rows=settings.max_rows,
            max_batch=settings.max_batch,
            max_queue_rows=settings.max_queue_rows,
            max_message_mib=settings.max_message_mib,
        )
        if settings.tls_cert and settings.tls_key:
            self._certificates = Certificates(
                settings.tls_cert, settings.tls_key, settings.tls_client_ca, self._metrics
            )
        self._traces = traces.wanted(SERVICE, settings.listen)
        self._tokens = Tokens(settings.tokens_file, RPCS) if settings.tokens_file else None
        self._interceptor = CallInterceptor(
            self._metrics,
            self._tokens,
            self._calls,
            most_bytes=settings.max_in_flight_mib << 20,
            traces=self._traces,
        )
        self._servicer = LatentServicer(limits, settings.threads or cores.usable())
        self._grpc = grpc.aio.server(
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
        self._interceptor.register(self._servicer, self._grpc)
        self._add_standard_services()

    def _add_standard_services(self) -> None:
        guard = Guard(self._tokens, self._metrics) if self._tokens is not None else None
        if guard is not None and self._settings.health == "token":
            self._health = GuardedHealth(guard)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._grpc)
        names = (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
        if guard is not None and self._settings.reflection == "token":
            guarded = GuardedReflection(names, guard)
            reflection_pb2_grpc.add_ServerReflectionServicer_to_server(guarded, self._grpc)  # type: ignore[no-untyped-call]
        elif self._settings.reflection != "off":
            reflection.enable_server_reflection(names, self._grpc)

    async def _listen(self) -> None:
        # HealthServicer starts as SERVING.
        await self._report(NOT_SERVING)
        host, _, _ = self._settings.listen.rpartition(":")
        _require_free(self._settings.listen)
        try:
            if self._certificates is None:
                port = self._grpc.add_insecure_port(self._settings.listen)
            else:
                port = self._grpc.add_secure_port(self._settings.listen, self._certificates.credentials())
        except RuntimeError:
            key = "is the key of tls_cert one of RSA, or of ECDSA on P-256 or P-384?"
            wrong = "is the folder there?" if self._certificates is None else key
            raise BadSettings(
                f"listen is {self._settings.listen}, which gRPC cannot serve: {wrong}"
            ) from None
        self.address = f"{host}:{port}" if host != "unix" else self._settings.listen
        self._http, self.metrics_address = _serve_metrics(self._settings.metrics_listen, self._metrics)
        await self._grpc.start()

    def _observer(self, model: str, graph: str) -> Observer | None:
        return None if self._traces is None else self._traces.observer(model, graph)

    def _freed(self) -> None:
        """A model's memory is free, in some thread: let the system have it."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: so is the process, soon
            self._loop.call_soon_threadsafe(_trim)

    async def _look_at_models(self, asked: bool) -> None:
        catalogue = await self._repository.refresh(settled=not asked)
        if catalogue is not None:
            self._servicer.catalogue = catalogue

    async def _look_at_access(self, _: bool) -> None:
        for access in (self._tokens, self._certificates):
            if access is not None:
                await asyncio.to_thread(access.reload)

    async def _report(self, status: int) -> None:
        for service in ("", SERVICE):
            await self._health.set(service, status)


def _milliseconds(seconds: float) -> int:
    """As gRPC takes them; 0 seconds are for ever."""
    return round(seconds * 1e3) or INT_MAX


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, then drain; Ctrl-C once more cuts the drain short.

    Raises:
        StartError: the server cannot start.
        DeviceLost: it cannot go on.
    """
    asked_to_stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    server = Server(settings)

    def interrupt() -> None:
        if asked_to_stop.is_set():
            server.hurry()
        asked_to_stop.set()

    loop.add_signal_handler(signal.SIGTERM, asked_to_stop.set)
    loop.add_signal_handler(signal.SIGINT, interrupt)
    if not await _started(server, asked_to_stop):
        logger.info("stopped before it was ready")
        return
    if hasattr(signal, "SIGHUP"):  # not on Windows
        loop.add_signal_handler(signal.SIGHUP, server.reload)
    _settle()
    await _either(asked_to_stop, server.lost)
    if server.lost.is_set():
        server.hurry()
        await server.stop()
        raise DeviceLost("the device does not run anything any more; the log says what it last said")
    logger.info("draining: calls in flight have %.0f s", settings.grace)
    await server.stop()
    logger.info("stopped")


async def _started(server: Server, asked_to_stop: asyncio.Event) -> bool:
    """Start, or give up as soon as a signal comes."""
    start = asyncio.ensure_future(server.start())
    stop = asyncio.ensure_future(asked_to_stop.wait())
    await asyncio.wait({start, stop}, return_when=asyncio.FIRST_COMPLETED)
    if not start.done():
        start.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await start
        return False
    stop.cancel()
    start.result()
    return True


async def _either(*events: asyncio.Event) -> None:
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()


def _settle() -> None:
    """Leave a start behind: what it made is no garbage, and what it freed is wanted by nobody here."""
    # A full collection among the modules and models of the start would stop the event loop for 20 ms.
    gc.freeze()
    gc.enable()
    _trim()


def _trim() -> None:
    # The C library keeps what parsing the graphs took, tens of MB.
    with contextlib.suppress(AttributeError):  # glibc's alone
        ctypes.CDLL(None).malloc_trim(0)


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


def _serve_metrics(address: str, metrics: Metrics) -> tuple[HTTPServer, str]:
    host, _, port = address.rpartition(":")
    try:
        http, _ = prometheus_client.start_http_server(int(port), host.strip("[]"), registry=metrics.registry)
    except (OSError, UnicodeError) as error:
        raise BadSettings(
            f"metrics_listen is {address}, where no server can be bound: {getattr(error, 'strerror', None) or error}"
        ) from None
    return http, f"{host}:{http.server_port}"
