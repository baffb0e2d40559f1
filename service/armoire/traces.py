"""Whether calls are traced: OpenTelemetry's own variables say so, and its packages have to be there."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from armoire.spans import Traces

logger = logging.getLogger(__name__)
ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
# The default of OpenTelemetry's specification, and of the packages that armoire[traces] brings. OTLP over gRPC would
# share gRPC's threads and its own log, which nobody can quieten, with the calls that are being traced.
PROTOCOL = "http/protobuf"


def wanted(service: str, listen: str) -> Traces | None:
    """Give the traces of ``service`` at ``listen``; None where no variable names a collector.

    What cannot be traced is served all the same, with one line in the log: the variables often come from the platform,
    for all that runs on it, and traces are no reason to be down.
    """
    name = next((name for name in ENDPOINTS if os.environ.get(name)), "")
    exporters = _words("OTEL_TRACES_EXPORTER")
    if not name or exporters == ["none"] or _words("OTEL_SDK_DISABLED") == ["true"]:
        return None
    try:
        if fault := _fault(name, exporters):
            raise ValueError(fault)
        # Loaded late: without a collector nobody needs these packages, nor the time that they take.
        from armoire.spans import Traces

        traces = Traces(service, listen)
    except ModuleNotFoundError as error:
        logger.warning("%s is set, but nothing is traced: no %s; install armoire[traces]", name, error.name)
    except Exception as error:  # OpenTelemetry raises what it likes over its variables
        logger.warning("%s is set, but nothing is traced: %s", name, error)
    else:
        logger.info("traces go where %s says", name)
        return traces
    return None


def _words(name: str) -> list[str]:
    return [word.strip().lower() for word in os.environ.get(name, "").split(",") if word.strip()]


def _fault(endpoint: str, exporters: list[str]) -> str:
    """Say what the variables ask for that there is not; empty: nothing. No value of an address is shown."""
    if exporters and not {"otlp", "otlp_proto_http"} & set(exporters):
        return f"OTEL_TRACES_EXPORTER is {','.join(exporters)}; otlp or none is wanted"
    protocol = next((name for name in PROTOCOLS if os.environ.get(name)), "")
    if protocol and _words(protocol) != [PROTOCOL]:
        return (
            f"{protocol} is {os.environ[protocol]}; {PROTOCOL} is wanted, which collectors take on port 4318"
        )
    if not os.environ[endpoint].startswith(("http://", "https://")):
        return f"{endpoint} begins with neither http:// nor https://"
    return ""
