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
from grpc_health.v1 import health_pb2, health_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class Health(health_pb2_grpc.HealthServicer):
    """The health of a server and its services, all of which are well or not; it begins as NOT_SERVING."""

    def __init__(self, services: Iterable[str]) -> None:
        self._services = frozenset(services)
        self._status: int = NOT_SERVING
        self._stopping = False
        self._changes: set[asyncio.Event] = set()  # one for each watcher

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

    async def Check(  # noqa: N802, D102
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> health_pb2.HealthCheckResponse:
        if request.service not in self._services:
            await context.abort(grpc.StatusCode.NOT_FOUND)
        return health_pb2.HealthCheckResponse(status=self._status)

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Context) -> None:  # noqa: N802, D102
        if request.service not in self._services:
            # It will not come: services are there from the start.
            await context.write(health_pb2.HealthCheckResponse(status=SERVICE_UNKNOWN))
            return
        del request
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
