"""grpc.health.v1: what is told to probes and balancers.

The servicer of grpcio-health-checking writes to a watcher while it holds the lock that a change of health needs: one
watcher who does not read would keep everybody's health as it is, and the server from stopping. And it keeps any name
that a stranger watches.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health, health_pb2

Context = grpc.aio.ServicerContext[Any, Any]
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class Health:
    """The health of a server and its services, all of which are well or not; it begins as NOT_SERVING."""

    def __init__(self, services: Iterable[str]) -> None:
        self._services = frozenset(services)
        self._status: int = NOT_SERVING
        self._stopping = False
        self._changes: set[asyncio.Event] = set()  # one for each watcher

    def register(self, server: grpc.aio.Server) -> None:
        """Add Check and Watch to ``server``.

        They take bytes: those that are no message are the caller's fault, where gRPC would make UNKNOWN of them.
        """
        serializer = health_pb2.HealthCheckResponse.SerializeToString
        methods: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            "Check": grpc.unary_unary_rpc_method_handler(self.check, response_serializer=serializer),
            "Watch": grpc.unary_stream_rpc_method_handler(self.watch, response_serializer=serializer),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(health.SERVICE_NAME, methods),))

    def set(self, serving: bool) -> None:
        """Tell everybody, unless the server is stopping."""
        if not self._stopping:
            self._tell(SERVING if serving else NOT_SERVING)

    def stop(self) -> None:
        """Say NOT_SERVING from now on."""
        self._tell(NOT_SERVING)
        self._stopping = True

    def _tell(self, status: int) -> None:
        self._status = status
        for change in self._changes:
            change.set()

    async def check(self, content: bytes, context: Context) -> health_pb2.HealthCheckResponse:
        """Give the status of a service; NOT_FOUND for one that is not here."""
        if await _service(content, context) not in self._services:
            await context.abort(grpc.StatusCode.NOT_FOUND)
        return health_pb2.HealthCheckResponse(status=self._status)

    async def watch(self, content: bytes, context: Context) -> None:
        """Write the status of a service, and again whenever it changes."""
        if await _service(content, context) not in self._services:
            # It will not come: services are there from the start.
            await context.write(health_pb2.HealthCheckResponse(status=SERVICE_UNKNOWN))
            return
        change, told = asyncio.Event(), None
        self._changes.add(change)
        try:
            while True:
                change.clear()
                if (status := self._status) != told:
                    await context.write(health_pb2.HealthCheckResponse(status=status))
                    told = status
                await change.wait()
        finally:
            self._changes.discard(change)


async def _service(content: bytes, context: Context) -> str:
    """Read the name in a request, or end the call."""
    try:
        return health_pb2.HealthCheckRequest.FromString(content).service
    except DecodeError as error:
        await context.abort(
            grpc.StatusCode.INVALID_ARGUMENT, f"the bytes are no HealthCheckRequest message: {error}"
        )
        raise
