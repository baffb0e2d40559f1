"""Log lines on stderr, for people or for machines."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
import warnings
from typing import Literal, TextIO

LogFormat = Literal["text", "json"]
FLUSH_SECONDS = 0.1
# So many lines are written at once, whatever the clock says: memory stays bounded.
FLUSH_LINES = 500
QUIET_SECONDS = 60.0
# What gRPC raises over bytes that it cannot read, in methods that are not ours and in paths, and over callers who
# went before it could tell them so.
CALLERS_FAULTS = frozenset({"DecodeError", "UnicodeDecodeError", "ExecuteBatchError"})


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Give the line."""
        line = {
            "time": _utc(record.created),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if hasattr(record, "request_id"):
            line["request_id"] = record.request_id
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


def is_ours(record: logging.LogRecord) -> bool:
    """Tell whether a line of a library is about more than a caller's fault, and shows nothing of what one sent.

    Anybody can make those as often as they like, and gRPC would write one to three tracebacks for each. Metadata that
    are not UTF-8 it shows with all their bytes, and a bearer token may be among them.
    """
    if record.name.startswith("opentelemetry.trace."):
        return False  # it shows the tracestate that came
    if not record.name.startswith("grpc"):
        return True
    kind = record.exc_info[0] if record.exc_info else None
    return record.msg != "Invalid encoding on %s" and (kind is None or kind.__name__ not in CALLERS_FAULTS)


def configure(log_format: LogFormat) -> None:
    """Send the log of this process to stderr."""
    # Pillow's doubts about a stranger's picture are no lines of this log: what cannot be decoded is answered.
    warnings.filterwarnings("ignore", module="PIL")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        JsonFormatter()
        if log_format == "json"
        else logging.Formatter("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S")
    )
    handler.addFilter(is_ours)
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


def quieten(name: str) -> None:
    """Let the logger of a library that repeats itself speak once in QUIET_SECONDS."""
    logger = logging.getLogger(name)
    if not any(isinstance(each, _Rarely) for each in logger.filters):
        logger.addFilter(_Rarely())


class _Rarely(logging.Filter):
    def __init__(self) -> None:
        super().__init__()
        self._quiet_until = 0.0

    def filter(self, record: logging.LogRecord) -> bool:  # noqa: ARG002
        now = time.monotonic()
        if now < self._quiet_until:
            return False
        self._quiet_until = now + QUIET_SECONDS
        return True


class CallLog:
    """One line for every call, written a tenth of a second late and many at once.

    The logging package takes longer over a line than a small graph over a row, so calls go around it.
    """

    def __init__(self, log_format: LogFormat, stream: TextIO | None = None) -> None:
        """Write to ``stream``, stderr by default, from one event loop; nothing below logging's level INFO."""
        self._enabled = logging.getLogger("armoire.calls").isEnabledFor(logging.INFO)
        self._json = log_format == "json"
        self._stream = stream
        self._lines: list[str] = []
        self._timer: asyncio.TimerHandle | None = None

    def add(
        self,
        method: str,
        code: str,
        seconds: float,
        request_id: str,
        trace_id: str = "",
        caller: str = "",
        problem: str = "",
    ) -> None:
        """Log a call: its RPC, status code and time, its trace, who called and what was wrong with it."""
        if not self._enabled:
            return
        now = time.time()
        if self._json:
            line = json.dumps(
                {
                    "time": _utc(now),
                    "level": "INFO",
                    "logger": "armoire.calls",
                    "message": f"{method} {code}{' ' if problem else ''}{problem}",
                    "request_id": request_id,
                    **({"trace_id": trace_id} if trace_id else {}),
                    "method": method,
                    "code": code,
                    "milliseconds": round(seconds * 1e3, 3),
                    "caller": caller,
                }
            )
        else:
            line = (
                f"{time.strftime('%H:%M:%S', time.localtime(now))} INFO    {method} {code} {seconds * 1e3:.1f} ms "
                f"request={request_id}{f' trace={trace_id}' if trace_id else ''}"
                f"{f' caller={caller}' if caller else ''}{' ' if problem else ''}{problem}"
            )
        self._lines.append(line)
        if len(self._lines) >= FLUSH_LINES:
            self.flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_SECONDS, self.flush)

    def flush(self) -> None:
        """Write what is waiting."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._lines:
            stream = self._stream or sys.stderr
            stream.write("\n".join(self._lines) + "\n")
            stream.flush()
            self._lines.clear()


def _utc(seconds: float) -> str:
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{int(seconds % 1 * 1000):03d}Z"
