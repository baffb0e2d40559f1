"""The composition root, read from top to bottom: load, wire, serve, drain."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import gc
import logging
import math
import os
import re
import signal
import socket
from functools import partial
from http.server import HTTPServer
from pathlib import Path

import grpc
import prometheus_client
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from armoire.config import Settings
from armoire.engine import calibration, cores, golden, runtime
from armoire.engine.batching import Batcher
from armoire.engine.graph import Graph
from armoire.engine.lanes import Lanes
from armoire.engine.pacing import Pacer
from armoire.engine.providers import CUDA, Provider
from armoire.errors import BadSettings
from armoire.logs import CallLog
from armoire.metrics import Metrics
from armoire.ops import bundle
from armoire.ops.autoencoder import Autoencoder
from armoire.ops.bundle import Bundle
from armoire.ops.catalogue import Catalogue
from armoire.v1 import armoire_pb2 as pb
from armoire.wire.interceptor import SERVICE, CallInterceptor
from armoire.wire.servicer import LatentServicer
from armoire.wire.tokens import Tokens

logger = logging.getLogger("armoire.server")
# Shares of latency_goal_ms: a call that arrives as a batch begins waits for that one, then for its own.
LONGEST_BATCH, LONGEST_DELAY = 0.5, 0.1
MAX_PENDING_CALLS = 8192
# Of one connection, so that none can fill the room that all have. Above it gRPC refuses as UNAVAILABLE.
MAX_CONNECTION_CALLS = MAX_PENDING_CALLS // 2
# A caller says hello within HANDSHAKE; a connection without a call is closed, and a client opens another unseen.
HANDSHAKE_MS, IDLE_MS = 20_000, 300_000
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
RPCS = frozenset(method.name for method in pb.DESCRIPTOR.services_by_name["LatentService"].methods)


class Server:
    """One server on one event loop: ``await start()``, and in the end ``await stop()``.

    Attributes:
        address: where gRPC answers, HOST:PORT.
        metrics_address: where Prometheus is answered.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._threads = settings.threads or cores.usable()
        self._lanes: Lanes | None = None
        self._calls = CallLog(settings.log_format)
        self._metrics = Metrics()
        self._health = health.aio.HealthServicer()
        self._interceptor: CallInterceptor
        self._servicer: LatentServicer
        self._grpc: grpc.aio.Server
        self._http: HTTPServer | None = None
        self.address = settings.listen
        self.metrics_address = settings.metrics_listen

    async def start(self) -> None:
        """Load the bundles, listen as NOT_SERVING, warm up and verify the graphs, then be SERVING.

        Raises:
            BadSettings: a setting that cannot be had here.
            BadBundle: a bundle that cannot be served.
        """
        exposed = not re.match(r"127\.|localhost:|\[::1\]|unix:", self._settings.listen)
        if self._settings.tokens_file and not self._settings.tls_cert and exposed:
            logger.warning("tokens will travel in plain text: set tls_cert and tls_key")
        bundles = [bundle.read(folder) for folder in bundle.find(self._settings.models)]
        self._wire()
        try:
            await self._listen()
            autoencoders = await asyncio.to_thread(self._warm_up, bundles)
            self._servicer.catalogue = Catalogue(autoencoders, self._settings.default_model)
        except BaseException:
            await self.stop()
            raise
        await self._report(SERVING)
        served = ", ".join(f"{a.manifest.name}/{a.manifest.version}" for a in self._servicer.catalogue)
        logger.info(
            "serving %s on %s by %s (%s, %d lanes); metrics on http://%s/metrics",
            served,
            self.address,
            autoencoders[0].provider,
            autoencoders[0].precision,
            self._lanes.count if self._lanes else 0,
            self.metrics_address,
        )

    async def stop(self) -> None:
        """Drain: health first, then new calls are refused and those in flight are answered, then gRPC stops."""
        await self._health.enter_graceful_shutdown()
        if self._servicer.catalogue is not None:  # else nobody has been served
            await self._interceptor.drain(self._settings.grace)
        await self._grpc.stop(0)
        for autoencoder in self._servicer.catalogue or ():
            autoencoder.close()
        if self._lanes is not None:
            self._lanes.close()
        self._servicer.close()
        self._calls.flush()
        if self._http is not None:
            await asyncio.to_thread(self._http.shutdown)
            self._http.server_close()

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
        tokens = Tokens(settings.tokens_file, RPCS) if settings.tokens_file else None
        self._interceptor = CallInterceptor(self._metrics, tokens, self._calls)
        self._servicer = LatentServicer(limits, self._threads)
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
                # A second server on the same port should fail, not share the traffic by chance.
                ("grpc.so_reuseport", 0),
            ],
        )
        self._interceptor.register(self._servicer, self._grpc)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._grpc)
        reflection.enable_server_reflection(
            (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), self._grpc
        )

    async def _listen(self) -> None:
        # HealthServicer starts as SERVING.
        await self._report(NOT_SERVING)
        host, _, _ = self._settings.listen.rpartition(":")
        credentials = self._credentials()
        _require_free(self._settings.listen)
        try:
            if credentials is None:
                port = self._grpc.add_insecure_port(self._settings.listen)
            else:
                port = self._grpc.add_secure_port(self._settings.listen, credentials)
        except RuntimeError:
            wrong = "is the folder there?" if credentials is None else "do tls_cert and tls_key fit?"
            raise BadSettings(
                f"listen is {self._settings.listen}, which gRPC cannot serve: {wrong}"
            ) from None
        self.address = f"{host}:{port}" if host != "unix" else self._settings.listen
        self._http, self.metrics_address = _serve_metrics(self._settings.metrics_listen, self._metrics)
        await self._grpc.start()

    def _credentials(self) -> grpc.ServerCredentials | None:
        settings = self._settings
        if settings.tls_cert is None or settings.tls_key is None:
            return None
        authority = _read("tls_client_ca", settings.tls_client_ca) if settings.tls_client_ca else None
        pair = (_read("tls_key", settings.tls_key), _read("tls_cert", settings.tls_cert))
        return grpc.ssl_server_credentials([pair], authority, require_client_auth=authority is not None)

    def _warm_up(self, bundles: list[Bundle]) -> list[Autoencoder]:
        provider = runtime.choose_provider(self._settings.provider, bundles[0], self._settings.max_batch)
        # One GPU has one stream of batches; on the CPU a batch has a core for itself.
        lanes = self._lanes = Lanes(1 if provider.name == CUDA else self._threads)
        loaded = [self._load(each, provider, lanes) for each in bundles]
        # Only now: a start that fails says so in one line.
        if provider.why:
            logger.info(provider.why)
        for each in loaded:
            if each.precision != "fp32":
                logger.info(
                    "%s/%s in %s: %.2f%% of the decoder's pixels are within 1 of 255 of the golden ones, all within %d",
                    each.manifest.name,
                    each.manifest.version,
                    each.precision,
                    100 * each.deviation.close,
                    each.deviation.largest,
                )
        return loaded

    def _load(self, each: Bundle, provider: Provider, lanes: Lanes) -> Autoencoder:
        manifest = each.manifest
        encoder, decoder = runtime.load(each, provider, lanes.count)
        deviation = golden.check(each, encoder, decoder, self._settings.close_pixels)
        queues = {
            name: self._queue(graph, manifest.name, name, lanes)
            for name, graph in (("encoder", encoder), ("decoder", decoder))
        }
        self._metrics.model_info.labels(
            manifest.name, manifest.version, provider.name, provider.precision
        ).set(1)
        self._metrics.close_pixels.labels(manifest.name, manifest.version).set(deviation.close)
        return Autoencoder(
            each, queues, provider=provider.name, precision=provider.precision, deviation=deviation
        )

    def _queue(self, graph: Graph, model: str, name: str, lanes: Lanes) -> Batcher:
        """Calibrate a graph and put a queue in front of it."""
        goal = self._settings.latency_goal_ms / 1e3
        longest = LONGEST_BATCH * goal if goal else math.inf
        cost = lanes.call(partial(calibration.warm_up, graph, self._settings.max_batch, longest))
        pacer = Pacer(LONGEST_DELAY * goal, cost.max_batch, cores.usable())
        self._metrics.calibrated(model, name, cost.measured, cost.max_batch, pacer.max_delay)
        return Batcher(
            graph,
            cost,
            lanes,
            max_queue_rows=self._settings.max_queue_rows,
            metrics=self._metrics.graph(model, name),
            pacer=pacer,
        )

    async def _report(self, status: int) -> None:
        for service in ("", SERVICE):
            await self._health.set(service, status)


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, then drain; Ctrl-C once more cuts the drain short.

    Raises:
        StartError: the server cannot start.
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
    await server.start()
    _settle()
    await asked_to_stop.wait()
    logger.info("draining: calls in flight have %.0f s", settings.grace)
    await server.stop()
    logger.info("stopped")


def _settle() -> None:
    """Leave the start behind: what it made is no garbage, and what it freed is wanted by nobody here."""
    # A full collection among the modules and models of the start would stop the event loop for 20 ms.
    gc.freeze()
    gc.enable()
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


def _read(setting: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadSettings(f"{setting} {path} cannot be read: {error.strerror}") from None
