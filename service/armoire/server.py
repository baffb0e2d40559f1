"""The composition root, read from top to bottom: load, wire, serve, drain."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from http.server import HTTPServer
from typing import TYPE_CHECKING

import grpc
from grpc_health.v1 import health
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from armoire import memory, traces
from armoire.config import Settings
from armoire.engine import cores
from armoire.engine.tickets import Observer
from armoire.errors import Unavailable
from armoire.logs import CallLog
from armoire.metrics import Metrics
from armoire.reloading import Reloader
from armoire.repository import Repository
from armoire.v1 import armoire_pb2 as pb
from armoire.watchdog import Watchdog
from armoire.wire import listening
from armoire.wire.certificates import Certificates
from armoire.wire.health import Health
from armoire.wire.interceptor import SERVICE, CallInterceptor
from armoire.wire.servicer import LatentServicer
from armoire.wire.standard import Guard, GuardedHealth, GuardedReflection
from armoire.wire.tokens import Tokens

if TYPE_CHECKING:
    from armoire.spans import Traces

logger = logging.getLogger("armoire.server")
# Of the whole server, and of the service that it is.
HEALTH_OF = ("", SERVICE)
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
        self._metrics.max_queue_rows.set(settings.max_queue_rows)
        self._health = Health(HEALTH_OF)
        self._traces: Traces | None
        self._interceptor: CallInterceptor
        self._servicer: LatentServicer
        self._grpc: grpc.aio.Server
        self._http: HTTPServer | None = None
        self._wired = False
        self._stopping: asyncio.Task[None] | None = None
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
        self._wired = True
        try:
            await self._listen()
            catalogue = await asyncio.to_thread(self._repository.load)
            if self._stopping is not None:
                raise Unavailable("the server was stopped while it started")
        except BaseException:
            with contextlib.suppress(asyncio.CancelledError):  # of what went wrong the first is told
                await self.stop()
            raise
        self._servicer.catalogue = catalogue
        self._health.set(True)
        for reloader in self._reloaders:
            reloader.start()
        loader = self._repository.loader
        self._watchdog = Watchdog(
            self._settings,
            self._metrics,
            loader.lanes,
            models=lambda: self._servicer.catalogue or (),
            report=self._health.set,
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
        """Drain: health first, then new calls are refused and those in flight are answered, then gRPC stops.

        Called again, it waits for the same end: of two stops of its server gRPC lets one use what the other has freed.
        A server that was not started has nothing to stop.
        """
        if not self._wired:
            return
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stop())
        await asyncio.shield(self._stopping)

    async def _stop(self) -> None:
        for reloader in self._reloaders:
            await reloader.stop()
        if self._watchdog is not None:
            await self._watchdog.stop()
        # Nothing comes between: who has read NOT_SERVING is answered no more.
        self._health.stop()
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
        self._grpc = listening.new_server(settings)
        self._interceptor.register(self._servicer, self._grpc)
        self._add_standard_services()

    def _add_standard_services(self) -> None:
        guard = Guard(self._tokens, self._metrics) if self._tokens is not None else None
        if guard is not None and self._settings.health == "token":
            self._health = GuardedHealth(HEALTH_OF, guard)
        self._health.register(self._grpc)
        names = (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
        if guard is not None and self._settings.reflection == "token":
            guarded = GuardedReflection(names, guard)
            reflection_pb2_grpc.add_ServerReflectionServicer_to_server(guarded, self._grpc)  # type: ignore[no-untyped-call]
        elif self._settings.reflection != "off":
            reflection.enable_server_reflection(names, self._grpc)

    async def _listen(self) -> None:
        self.address = listening.bind(self._grpc, self._settings.listen, self._certificates)
        self._http, self.metrics_address = listening.serve_metrics(
            self._settings.metrics_listen, self._metrics.registry
        )
        await self._grpc.start()

    def _observer(self, model: str, graph: str) -> Observer | None:
        return None if self._traces is None else self._traces.observer(model, graph)

    def _freed(self) -> None:
        """A model's memory is free, in some thread: let the system have it."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: so is the process, soon
            self._loop.call_soon_threadsafe(memory.trim)

    async def _look_at_models(self, asked: bool) -> None:
        catalogue = await self._repository.refresh(settled=not asked)
        if catalogue is not None:
            self._servicer.catalogue = catalogue

    async def _look_at_access(self, _: bool) -> None:
        for access in (self._tokens, self._certificates):
            if access is not None:
                await asyncio.to_thread(access.reload)
