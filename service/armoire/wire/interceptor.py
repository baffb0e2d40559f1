"""Status codes, metrics, credentials, the span and the log line of every call, each in one place."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from armoire.engine.tickets import Call
from armoire.errors import ArmoireError, Internal, InvalidArgument, Overloaded, Unavailable
from armoire.logs import CallLog
from armoire.metrics import Metrics
from armoire.v1 import armoire_pb2 as pb
from armoire.v1 import armoire_pb2_grpc as pb_grpc
from armoire.wire.caller import ANYBODY, Caller, IncomingCall
from armoire.wire.tokens import Tokens

if TYPE_CHECKING:  # with OpenTelemetry, which is loaded only where calls are traced
    from armoire.spans import Traces

logger = logging.getLogger("armoire.calls")
SERVICE = pb.DESCRIPTOR.services_by_name["LatentService"].full_name
# A drained server goes on refusing, so that balancers see it leave: at least LINGER, and until nobody has called for
# QUIET, since on a busy machine a caller needs its time to read the last answer and to call again; LONGEST in all,
# for those who call on and on.
LINGER_SECONDS, QUIET_SECONDS, LONGEST_SECONDS = 0.2, 1.0, 3.0
# Readers that take their time are nothing that could be measured.
RETRY_SECONDS = 0.5
REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"  # generic for the type checker only


class CallInterceptor:
    """Stands around every method of LatentService; health and reflection have their own handlers.

    No grpc.aio.ServerInterceptor: that is asked again at every call for a handler which never changes.
    """

    def __init__(
        self,
        metrics: Metrics,
        tokens: Tokens | None,
        log: CallLog,
        *,
        most_bytes: int,
        traces: Traces | None = None,
    ) -> None:
        """Wrap nothing yet; ``most_bytes`` of requests and answers may be in flight."""
        self._metrics = metrics
        self._most_bytes = most_bytes
        self._bytes = 0
        self._log = log
        self._traces = traces
        self._draining = False
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._hurried = asyncio.Event()
        self._last_call = 0.0
        self._tokens = tokens
        # Unique among replicas and restarts, and cheaper than a UUID for every call.
        self._process, self._numbers = secrets.token_hex(4), itertools.count(1)

    def register(self, servicer: pb_grpc.LatentServiceServicer, server: grpc.aio.Server) -> None:
        """Add the methods of ``servicer`` to ``server``, each wrapped."""
        collector = _Collector()
        pb_grpc.add_LatentServiceServicer_to_server(servicer, collector)
        wrapped = {method: self._wrap(handler, method) for method, handler in collector.handlers.items()}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, wrapped),))

    async def drain(self, grace: float) -> None:
        """Refuse new calls as UNAVAILABLE and wait until those in flight have their answers, ``grace`` seconds at most.

        gRPC's own stop answers calls that arrive at that moment with CANCELLED, which no client tries again:
        it should come when the callers have gone.
        """
        self._draining = True
        began = time.monotonic()
        if not self._hurried.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), grace)
        if self._in_flight:
            logger.warning("%d calls are cut off", self._in_flight)
            return
        idle = time.monotonic()
        latest = min(idle + LONGEST_SECONDS, began + grace)
        while not self._hurried.is_set():
            until = min(max(idle + LINGER_SECONDS, self._last_call + QUIET_SECONDS), latest)
            if (left := until - time.monotonic()) <= 0:
                break
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._hurried.wait(), left)

    def hurry(self) -> None:
        """End the waits of ``drain``."""
        self._hurried.set()
        self._idle.set()

    def _wrap(self, handler: Handler, method: str) -> Handler:
        async def answer(content: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            return await self._answer(method, handler, content, context)

        def serialize(reply: Any) -> bytes:
            assert handler.response_serializer is not None
            return reply if isinstance(reply, bytes) else handler.response_serializer(reply)

        # Without a deserializer the bytes come as they are: those of a stranger are never parsed, and bytes that
        # are no message are the caller's fault, where gRPC would make INTERNAL of them.
        return grpc.unary_unary_rpc_method_handler(answer, response_serializer=serialize)

    async def _answer(
        self, method: str, handler: Handler, content: bytes, context: grpc.aio.ServicerContext[Any, Any]
    ) -> Any:
        started = time.perf_counter()
        metadata = {str(key): value for key, value in context.invocation_metadata() or ()}
        request_id = self._request_id(metadata.get("x-request-id"))
        remaining = context.time_remaining()
        deadline = None if remaining is None else time.monotonic() + remaining
        traces = self._traces
        call = (
            IncomingCall(deadline) if traces is None else traces.begin(method, metadata, request_id, deadline)
        )
        code, reply = grpc.StatusCode.OK, None
        failure: ArmoireError | None = None
        held = self._arrive(context, len(content))
        try:
            call.caller = self._admit(method, metadata)
            assert handler.request_deserializer is not None
            assert handler.unary_unary is not None
            request = handler.request_deserializer(content)
            behaviour: Any = handler.unary_unary
            reply = await behaviour(request, call)
        except DecodeError as error:
            failure = InvalidArgument(f"the bytes are no {method}Request message: {error}")
        except ArmoireError as error:
            # Its frames would hold on to the model until the next collection.
            failure = error.with_traceback(None)
        except asyncio.CancelledError:
            code = grpc.StatusCode.CANCELLED if call.remaining() > 0 else grpc.StatusCode.DEADLINE_EXCEEDED
            raise
        except Exception:
            logger.exception("%s failed, request %s", method, request_id, extra={"request_id": request_id})
            failure = Internal(f"a bug in the server; its log has the traceback under request {request_id}")
        finally:
            code = failure.code if failure is not None else code
            seconds = time.perf_counter() - started
            self._record(method, code, failure, seconds, request_id, call)
        trailing = (
            ("armoire-timing", _timing(call, seconds)),
            ("x-request-id", request_id),
            *((("armoire-model", call.model),) if call.model else ()),
        )
        if failure is not None:
            details = ("grpc-status-details-bin", _status(failure).SerializeToString())
            await context.abort(code, str(failure), (*trailing, details))
        context.set_trailing_metadata(trailing)
        if isinstance(reply, bytes):
            self._hold(held, len(reply))
        return reply

    def _arrive(self, context: grpc.aio.ServicerContext[Any, Any], size: int) -> _Held:
        """Count a call and its bytes as in flight until the last byte of its answer is out."""
        self._in_flight += 1
        self._idle.clear()
        held = _Held()
        self._hold(held, size)
        context.add_done_callback(lambda *_: self._leave(held))  # type: ignore[arg-type]
        return held

    def _hold(self, held: _Held, size: int) -> None:
        held.bytes += size
        self._bytes += size

    def _leave(self, held: _Held) -> None:
        self._bytes -= held.bytes
        self._in_flight -= 1
        self._last_call = time.monotonic()
        if not self._in_flight:
            self._idle.set()

    def _admit(self, method: str, metadata: dict[str, Any]) -> Caller:
        """Refuse what should cost nothing; give who calls."""
        if self._draining:
            raise Unavailable("the server is shutting down; call another replica")
        if self._bytes > self._most_bytes:
            raise Overloaded(
                f"{self._bytes >> 20} MiB of requests and answers are in flight, more than max_in_flight_mib = "
                f"{self._most_bytes >> 20}; try again",
                retry_after=RETRY_SECONDS,
                reason="bytes",
            )
        if self._tokens is None:
            return ANYBODY
        return self._tokens.check(str(metadata.get("authorization", "")), method)

    def _record(
        self,
        method: str,
        code: grpc.StatusCode,
        failure: ArmoireError | None,
        seconds: float,
        request_id: str,
        call: IncomingCall,
    ) -> None:
        problem = "" if failure is None else str(failure)
        if self._traces is not None:
            self._traces.end(call, code, problem)
        if failure is not None and failure.reason:
            self._metrics.refused(method, code.name, failure.reason)
        else:
            self._metrics.answered(method, code.name, seconds, call.trace)
        trace_id = call.trace["trace_id"] if call.trace else ""
        self._log.add(method, code.name, seconds, request_id, trace_id, call.caller.name, problem)

    def _request_id(self, came: object) -> str:
        """Take the caller's id where it can be printed, else make one."""
        return (
            came
            if isinstance(came, str) and REQUEST_ID.fullmatch(came)
            else f"{self._process}-{next(self._numbers):x}"
        )


@dataclass(slots=True)
class _Held:
    """The bytes that a call keeps in memory."""

    bytes: int = 0


class _Collector:
    """Takes the handlers that the generated code makes of a servicer, in the server's place."""

    handlers: Mapping[str, Handler]

    def add_generic_rpc_handlers(self, _: object) -> None:
        """Ignore them: they are the same handlers once more, behind a look-up by name."""

    def add_registered_method_handlers(self, _: str, handlers: Mapping[str, Handler]) -> None:
        """Keep them."""
        self.handlers = handlers


def _timing(call: Call, seconds: float) -> str:
    return (
        f"queue={call.queue_seconds * 1e3:.3f}, run={call.run_seconds * 1e3:.3f}, total={seconds * 1e3:.3f}"
    )


def _status(error: ArmoireError) -> status_pb2.Status:
    """Give the rich status: BadRequest for a field, ErrorInfo for a limit or a rate, RetryInfo for a refusal."""
    status = status_pb2.Status(code=error.code.value[0], message=str(error))
    if isinstance(error, InvalidArgument):
        violation = error_details_pb2.BadRequest.FieldViolation(field=error.field, description=str(error))
        status.details.add().Pack(error_details_pb2.BadRequest(field_violations=[violation]))
    if error.info:
        status.details.add().Pack(error_details_pb2.ErrorInfo(reason=error.info, domain=SERVICE))
    if isinstance(error, Overloaded) and error.retry_after is not None:
        delay = Duration()
        delay.FromNanoseconds(int(error.retry_after * 1e9))
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    return status
