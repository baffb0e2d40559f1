"""The channels of one client process, and the one RPC that is called on them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from itertools import cycle
from typing import Any, TypeAlias

import grpc
import grpc.aio

from armoire.load.plan import Target
from armoire.wire.credentials import read_credentials

OPTIONS = (
    # Else channels to one address share one connection.
    ("grpc.use_local_subchannel_pool", 1),
    # A failure is something to count, not to hide.
    ("grpc.enable_retries", 0),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # As the Client does: every address behind a name takes its share.
    ("grpc.service_config", json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})),
    # A server that comes back is found soon, not after the minutes to which gRPC's patience grows.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
)
Call: TypeAlias = "grpc.aio.UnaryUnaryCall[bytes, bytes]"


class Channels:
    """They take calls in turn. Requests and replies are bytes, which nobody parses."""

    def __init__(self, target: Target, method: str, count: int) -> None:
        """Prepare; errors as read_credentials'."""
        self._timeout = target.timeout
        self._metadata = (("authorization", f"Bearer {target.token}"),) if target.token else ()
        tls = target.tls and read_credentials(target.tls.ca, target.tls.key, target.tls.cert)
        self._channels = [_open(target.address, tls or None) for _ in range(count)]
        self._methods: Iterator[Any] = cycle([channel.unary_unary(method) for channel in self._channels])

    async def connect(self) -> None:
        """Wait until every one is connected.

        Raises:
            TimeoutError: not within the time that a call has.
        """
        async with asyncio.timeout(self._timeout):
            await asyncio.gather(*(channel.channel_ready() for channel in self._channels))

    def call(self, message: bytes) -> Call:
        """Begin a call on the channel whose turn it is."""
        call: Call = next(self._methods)(message, timeout=self._timeout, metadata=self._metadata)
        return call

    async def close(self) -> None:
        """Close them."""
        for channel in self._channels:
            await channel.close()


def _open(address: str, credentials: grpc.ChannelCredentials | None) -> grpc.aio.Channel:
    if credentials is None:
        return grpc.aio.insecure_channel(address, OPTIONS)
    return grpc.aio.secure_channel(address, credentials, OPTIONS)
