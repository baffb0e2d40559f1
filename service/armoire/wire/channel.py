"""The client's end of the wire: channels that balance and try again, and gRPC's errors as ours."""

from __future__ import annotations

import json
import re
from typing import Any, cast

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from armoire import errors
from armoire.v1 import armoire_pb2 as pb

SERVICE = pb.DESCRIPTOR.services_by_name["LatentService"].full_name
# Any replica that says SERVING takes a share. Only UNAVAILABLE is tried again; every RPC is safe to repeat.
SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "healthCheckConfig": {"serviceName": SERVICE},
    "methodConfig": [
        {
            "name": [{"service": SERVICE}],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.1s",
                "maxBackoff": "2s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
}
RETRY_BUFFER_BYTES = 64 << 20
# A host that is cut off says nothing. With keepalive gRPC has the kernel end a connection on which nothing was
# acknowledged for DEAD_MS (TCP_USER_TIMEOUT), and tries its calls again elsewhere; without, they wait for their
# deadlines. The pings of keepalive itself are as rare as gRPC's servers bear: more than five minutes apart.
PING_MS, DEAD_MS = 310_000, 3_000
# What gRPC says where no server can be reached, and what to do about it; the first that is found counts.
ADVICE = (
    (
        "certificate has expired",
        "the server's certificate has expired, or the clock here is wrong: have it renewed",
    ),
    (
        "CERTIFICATE_VERIFY_FAILED",
        "no authority that is trusted here signed the server's certificate: give the one that did, as --tls-ca does",
    ),
    (
        "Hostname Verification Check failed",
        "the server's certificate is for another name: call the server by one that is in it",
    ),
    ("WRONG_VERSION_NUMBER", "the server speaks plain text: call it without TLS"),
    (
        "Socket closed|Connection reset|Broken pipe",
        "the server ended the connection: does it want TLS, or a client certificate that its authority signed and that "
        "has not expired? Or was it stopped?",
    ),
    ("", "is a healthy server there? `armoire serve` starts one, `armoire health` asks it"),
)


def connect(address: str, credentials: grpc.ChannelCredentials | None = None) -> grpc.Channel:
    """Open a channel as the Client does: round robin over healthy replicas, retries, replies of any size."""
    if credentials is None:
        return grpc.insecure_channel(address, options())
    return grpc.secure_channel(address, credentials, options())


def options() -> list[tuple[str, Any]]:
    """Give the options of such a channel, which grpc.aio takes as well."""
    return [
        ("grpc.service_config", json.dumps(SERVICE_CONFIG)),
        ("grpc.max_receive_message_length", -1),
        ("grpc.max_send_message_length", -1),
        # gRPC tries again only what it has kept, by default no request over 256 KiB.
        ("grpc.per_rpc_retry_buffer_size", RETRY_BUFFER_BYTES),
        ("grpc.keepalive_time_ms", PING_MS),
        ("grpc.keepalive_timeout_ms", DEAD_MS),
    ]


def bearer(token: str | None) -> tuple[tuple[str, str], ...]:
    """Give the metadata that bring a token; without one, none.

    Raises:
        InvalidArgument: characters that cannot be sent, of which gRPC's own error would show the whole token.
    """
    if token is not None and not re.fullmatch(r"[!-~]*", token):
        raise errors.InvalidArgument("printable ASCII characters without spaces are wanted", "token")
    return (("authorization", f"Bearer {token}"),) if token else ()


def to_error(error: grpc.RpcError) -> errors.ArmoireError:
    """Turn gRPC's error into the class of armoire.errors that carries its code."""
    code, text = error.code(), error.details() or error.code().name
    from_the_server = "x-request-id" in dict(cast(Any, error.trailing_metadata()) or ())
    if code is grpc.StatusCode.UNAVAILABLE and not from_the_server:
        text += f" ({next(advice for sign, advice in ADVICE if re.search(sign, text))})"
    by_code: dict[grpc.StatusCode, type[errors.ArmoireError]] = {
        kind.code: kind
        for kind in errors.ArmoireError.__subclasses__()
        if kind.code is not grpc.StatusCode.UNKNOWN  # that of errors which no server answers with
    }
    found = by_code.get(code, errors.ArmoireError)(text)
    status = rpc_status.from_call(cast(grpc.Call, error))  # every RpcError that a call raises is one
    for detail in status.details if status else ():
        bad_request, retry_info = error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
        error_info = error_details_pb2.ErrorInfo()
        if isinstance(found, errors.InvalidArgument) and detail.Unpack(bad_request):
            found.field = bad_request.field_violations[0].field
        elif isinstance(found, errors.InvalidArgument) and detail.Unpack(error_info):
            field, found = found.field, errors.LimitExceeded(text)
            found.field = field
        elif isinstance(found, errors.Overloaded) and detail.Unpack(error_info):
            found = errors.RateLimited(text)
        elif isinstance(found, errors.Overloaded) and detail.Unpack(retry_info):
            found.retry_after = retry_info.retry_delay.ToNanoseconds() / 1e9
    return found
