"""Every setting of the server, defined once: flag, environment variable, type, range, default, help.

A setting ``max_rows`` is the flag ``--max-rows`` and the variable ``ARMOIRE_MAX_ROWS``; a flag wins.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

import msgspec
from msgspec import Meta

from armoire.errors import BadSettings

BUNDLED_MODELS = Path(__file__).parent / "models"
PREFIX = "ARMOIRE_"
# What Kubernetes injects for a Service called armoire, and what training reads.
FOREIGN = re.compile(r"ARMOIRE_(SERVICE_\w+|PORT(_\w+)?|DATA|CELEBA|CACHE|INCEPTION|REVISION)")
# And for a Service called armoire-something, in pods of its namespace: always with the Service's host.
INJECTED = re.compile(
    r"(?P<service>ARMOIRE_\w+?)_(SERVICE_(HOST|PORT(_\w+)?)|(?P<url>PORT)|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
URL = re.compile(r"(tcp|udp|sctp)://\S+")
HOST_OR_PORT = re.compile(r"[0-9A-Fa-f.:]+|tcp|udp|sctp")


# A name, an IPv4 address, or an IPv6 address in brackets.
HOST = re.compile(r"[^\s:/\[\]]+|\[[0-9A-Fa-f:.%]+\]")


def _host_and_port(value: str) -> str:
    """Say what is wrong with an address; empty: nothing."""
    host, _, port = value.rpartition(":")
    fits = HOST.fullmatch(host) and re.fullmatch(r"[0-9]{1,5}", port) and int(port) < 65536
    return "" if fits else "an address is HOST:PORT, as in 127.0.0.1:50051"


def _address(value: str) -> str:
    return "" if re.fullmatch(r"unix:.+", value) else _host_and_port(value)


CHECKS: dict[str, Callable[[str], str]] = {"listen": _address, "metrics_listen": _host_and_port}


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of one server."""

    listen: Annotated[str, Meta(description="address of the gRPC port; loopback unless told")] = (
        "127.0.0.1:50051"
    )
    metrics_listen: Annotated[str, Meta(description="address of the Prometheus port")] = "127.0.0.1:9464"
    models: Annotated[Path, Meta(description="folder of bundles, NAME/VERSION/ each")] = BUNDLED_MODELS
    default_model: Annotated[
        str,
        Meta(
            description="model that an empty name stands for; none: fashion-mnist where served, else the first"
        ),
    ] = ""
    provider: Annotated[
        Literal["auto", "cpu", "cuda", "cuda-fp16", "openvino"],
        Meta(
            description="where graphs run, required where named; auto takes cuda where it works, else cpu; "
            "cuda-fp16 and openvino (bf16) are faster and less exact"
        ),
    ] = "auto"
    close_pixels: Annotated[
        float,
        Meta(
            ge=0,
            le=1,
            description="share of pixels that such a decoder must have within 1 of 255 of its golden outputs",
        ),
    ] = 0.99
    threads: Annotated[
        int,
        Meta(
            ge=0, le=1024, description="CPU batches side by side, a core each; 0: the cores it may really use"
        ),
    ] = 0
    latency_goal_ms: Annotated[
        float,
        Meta(
            ge=0,
            le=60_000,
            description="a batch takes at most half of it and waits at most a tenth for more rows; "
            "0: no bound, no wait",
        ),
    ] = 25.0
    max_rows: Annotated[
        int, Meta(ge=1, le=65536, description="most rows of one call (n x steps for Interpolate)")
    ] = 1024
    max_batch: Annotated[int, Meta(ge=1, le=4096, description="most rows that run as one batch")] = 64
    max_queue_rows: Annotated[
        int, Meta(ge=1, le=1 << 20, description="most unanswered rows in front of one graph")
    ] = 4096
    max_in_flight_mib: Annotated[
        int,
        Meta(
            ge=1,
            le=1 << 20,
            description="most MiB of requests and answers that are not yet sent; what comes beyond is refused",
        ),
    ] = 512
    max_message_mib: Annotated[int, Meta(ge=1, le=1024, description="largest request message in MiB")] = 16
    reload_seconds: Annotated[
        float,
        Meta(
            ge=0,
            le=86_400,
            description="seconds between looks at models, tokens and certificates for changes; "
            "0: only at SIGHUP",
        ),
    ] = 10.0
    canary_seconds: Annotated[
        float,
        Meta(
            ge=0,
            le=86_400,
            description="seconds between golden checks of the served models; one that fails turns health to "
            "NOT_SERVING; 0: none",
        ),
    ] = 60.0
    stuck_seconds: Annotated[
        float,
        Meta(
            ge=0.1, le=86_400, description="seconds that a batch may run before health turns to NOT_SERVING"
        ),
    ] = 10.0
    connection_age: Annotated[
        float,
        Meta(
            ge=0,
            le=86_400,
            description="seconds after which a client is asked to connect anew, a tenth more or less, so that new "
            "replicas get their share; 0: never",
        ),
    ] = 300.0
    grace: Annotated[
        float, Meta(ge=0, le=3600, description="seconds that calls in flight have at shutdown")
    ] = 30.0
    tls_cert: Annotated[
        Path | None, Meta(description="PEM certificate chain of the server; turns TLS on")
    ] = None
    tls_key: Annotated[Path | None, Meta(description="PEM private key of the server")] = None
    tls_client_ca: Annotated[
        Path | None, Meta(description="PEM authorities of client certificates; turns mTLS on")
    ] = None
    tokens_file: Annotated[
        Path | None,
        Meta(
            description="bearer tokens that may call, a line each: NAME SHA256-HEX and its rights; none: everybody"
        ),
    ] = None
    health: Annotated[
        Literal["open", "token"],
        Meta(description="who may ask for health: everybody, as probes do, or with a token only"),
    ] = "open"
    reflection: Annotated[
        Literal["open", "token", "off"],
        Meta(
            description="who may ask for the definition of the API; token: with tokens_file one is asked for"
        ),
    ] = "token"
    log_format: Annotated[Literal["text", "json"], Meta(description="form of the log lines on stderr")] = (
        "text"
    )


class Setting(NamedTuple):
    """What is known of one setting: the type of its value, its default and, in ``meta``, its range and meaning."""

    kind: Any
    default: Any
    meta: Meta

    @property
    def choices(self) -> tuple[str, ...]:
        """The words that it takes, where there are such."""
        return get_args(self.kind) if get_origin(self.kind) is Literal else ()

    @property
    def description(self) -> str:
        """What it means."""
        return self.meta.description or ""


SETTINGS = {
    field.name: Setting(get_args(field.type)[0], field.default, get_args(field.type)[1])
    for field in msgspec.structs.fields(Settings)
}


def flag(name: str) -> str:
    """Give the command-line flag of a setting."""
    return "--" + name.replace("_", "-")


def variable(name: str) -> str:
    """Give the environment variable of a setting."""
    return PREFIX + name.upper()


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Give ``parser`` one flag for each setting."""
    for name, setting in SETTINGS.items():
        choices = setting.choices
        parser.add_argument(
            flag(name),
            # Not argparse's own choices: load() says in one line what is wrong with any value.
            metavar="{" + ",".join(choices) + "}" if choices else name.upper(),
            default=argparse.SUPPRESS,
            help=f"{setting.description} [{variable(name)}; default: {_default(setting.default)}]".replace(
                "%", "%%"
            ),
        )


def load(flags: Mapping[str, Any], environ: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings from flags, then the environment, then the defaults.

    Raises:
        BadSettings: a value that cannot be, or an ARMOIRE_ variable that nobody reads.
    """
    known = {variable(name): name for name in SETTINGS}
    for name in sorted(environ):
        if name.startswith(PREFIX) and name not in known and not _foreign(name, environ):
            near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.0)
            raise BadSettings(f"the environment has {name}, which is no setting; the nearest is {near[0]}")
    # An empty variable is an unset one.
    given = {name: environ[key].strip() for key, name in known.items() if environ.get(key)} | dict(flags)
    values, faults = {}, []
    for name, value in given.items():
        fault = CHECKS[name](value) if name in CHECKS else ""
        try:
            values[name] = msgspec.convert(value, _type(name), strict=False, dec_hook=_from_text)
        except msgspec.ValidationError:
            fault = _wanted(SETTINGS[name])
        if fault:
            faults.append(f"{flag(name) if name in flags else variable(name)} is {value!r}: {fault}")
    if not faults:
        settings = Settings(**values)
        faults = _disagreements(settings)
    if faults:
        raise BadSettings("; ".join(faults))
    return settings


def _type(name: str) -> Any:
    return Annotated[SETTINGS[name].kind, SETTINGS[name].meta]


def _from_text(kind: type, value: Any) -> Any:
    return kind(value)  # Path is the only kind that msgspec does not know


def _wanted(setting: Setting) -> str:
    if setting.choices:
        return f"one of {', '.join(setting.choices)} is wanted"
    number = {int: "a whole number", float: "a number"}[setting.kind]
    return f"{number} from {setting.meta.ge} to {setting.meta.le} is wanted"


def _disagreements(settings: Settings) -> list[str]:
    faults = []
    if settings.max_queue_rows < settings.max_rows:
        faults.append(
            f"max_queue_rows ({settings.max_queue_rows}) is below max_rows ({settings.max_rows}): "
            "a call of the full size could never be taken"
        )
    if settings.max_in_flight_mib < settings.max_message_mib:
        faults.append(
            f"max_in_flight_mib ({settings.max_in_flight_mib}) is below max_message_mib "
            f"({settings.max_message_mib}): a message of the full size could never be taken"
        )
    if (settings.tls_cert is None) != (settings.tls_key is None):
        faults.append("tls_cert and tls_key go together; one of them is missing")
    elif settings.tls_client_ca and not settings.tls_cert:
        faults.append("tls_client_ca needs tls_cert and tls_key")
    if settings.health == "token" and settings.tokens_file is None:
        faults.append("health is token, and there is no tokens_file: nobody could ask for it")
    return faults


def _foreign(name: str, environ: Mapping[str, str]) -> bool:
    """Whether somebody else reads a variable; one that looks like Kubernetes' must have such a value, too."""
    if FOREIGN.fullmatch(name):
        return True
    injected = INJECTED.fullmatch(name)
    if injected is None or URL.fullmatch(environ[name]):
        return injected is not None
    beside_its_host = f"{injected['service']}_SERVICE_HOST" in environ
    return beside_its_host and not injected["url"] and bool(HOST_OR_PORT.fullmatch(environ[name]))


def row(name: str) -> str:
    """Give a setting's row of the README's table: flag, variable, default, meaning."""
    setting = SETTINGS[name]
    return f"| `{flag(name)}` | `{variable(name)}` | {_default(setting.default)} | {setting.description} |"


def _default(value: object) -> str:
    if value == BUNDLED_MODELS:
        return "the bundled models"
    return "none" if value in (None, "") else str(value)
