"""The standard services beside ours, health and reflection, where a token is asked for."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable
from typing import Any

import grpc
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from armoire.errors import Unauthenticated
from armoire.metrics import Metrics
from armoire.wire.health import Health
from armoire.wire.tokens import Tokens

Context = grpc.aio.ServicerContext[Any, Any]


class Guard:
    """Asks for any token that is known; what it is good for else does not count here."""

    def __init__(self, tokens: Tokens, metrics: Metrics) -> None:
        self._tokens = tokens
        self._metrics = metrics

    async def admit(self, context: Context, refusal: grpc.StatusCode = Unauthenticated.code) -> None:
        """End the call with ``refusal`` unless it brought a token."""
        metadata = {str(key): value for key, value in context.invocation_metadata() or ()}
        try:
            self._tokens.require(str(metadata.get("authorization", "")))
        except Unauthenticated as error:
            self._metrics.rejected(error.reason)
            await context.abort(refusal, str(error))


class GuardedHealth(Health):
    """grpc.health.v1 for those who bring a token."""

    def __init__(self, services: Iterable[str], guard: Guard) -> None:
        super().__init__(services)
        self._guard = guard

    async def check(self, content: bytes, context: Context) -> health_pb2.HealthCheckResponse:
        """Ask for a token first."""
        await self._guard.admit(context)
        return await super().check(content, context)

    async def watch(self, content: bytes, context: Context) -> None:
        """Ask for a token first."""
        # A channel that balances by health watches by itself, without its calls' metadata. Only by this code it takes
        # a server for one that tells nothing of its health, and calls it all the same.
        await self._guard.admit(context, grpc.StatusCode.UNIMPLEMENTED)
        await super().watch(content, context)


class GuardedReflection(reflection.aio.ReflectionServicer):
    """grpc.reflection.v1alpha for those who bring a token."""

    def __init__(self, services: Iterable[str], guard: Guard) -> None:
        super().__init__(services)
        self._guard = guard

    async def ServerReflectionInfo(  # type: ignore[override]  # noqa: N802, D102
        self, requests: AsyncIterable[reflection_pb2.ServerReflectionRequest], context: Context
    ) -> AsyncIterator[reflection_pb2.ServerReflectionResponse]:
        await self._guard.admit(context)
        replies: Any = super().ServerReflectionInfo(
            requests, context
        )  # typed as what one awaits, which it is not
        async for reply in replies:
            yield reply
