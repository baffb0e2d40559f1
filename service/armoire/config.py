"""Every setting of the server, defined once: flag, environment variable, type, range, default, help.

A setting ``max_rows`` is the flag ``--max-rows`` and the variable ``ARMOIRE_MAX_ROWS``; a flag wins.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from armoire.errors import BadSettings

BUNDLED_MODELS = Path(__file__).parent / "models"
PREFIX = "ARMOIRE_"
# What Kubernetes injects for a Service called armoire, and what training reads.
FOREIGN = re.compile(r"ARMOIRE_(SERVICE_\w+|PORT(_\w+)?|DATA|CELEBA)")
# And for a Service called armoire-something, in pods of its namespace: always with the Service's host.
INJECTED = re.compile(
    r"(?P<service>ARMOIRE_\w+?)_(SERVICE_(HOST|PORT(_\w+)?)|(?P<url>PORT)|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
URL = re.compile(r"(tcp|udp|sctp)://\S+")
HOST_OR_PORT = re.compile(r"[0-9A-Fa-f.:]+|tcp|udp|sctp")


# A name, an IPv4 address, or an IPv6 address in brackets.
HOST = re.compile(r"[^\s:/\[\]]+|\[[0-9A-Fa-f:.%]+\]")


def _host_and_port(value: str) -> str:
    host, _, port = value.rpartition(":")
    if HOST.fullmatch(host) and re.fullmatch(r"[0-9]{1,5}", port) and int(port) < 65536:
        return value
    raise ValueError("an address is HOST:PORT, as in 127.0.0.1:50051")


def _address(value: str) -> str:
    return value if re.fullmatch(r"unix:.+", value) else _host_and_port(value)


TcpAddress = Annotated[str, AfterValidator(_host_and_port)]
Address = Annotated[str, AfterValidator(_address)]


class Settings(BaseModel):
    """The settings of one server."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    listen: Address = Field("127.0.0.1:50051", description="address of the gRPC port; loopback unless told")
    metrics_listen: TcpAddress = Field("127.0.0.1:9464", description="address of the Prometheus port")
    models: Path = Field(BUNDLED_MODELS, description="folder of bundles, NAME/VERSION/ each")
    default_model: str = Field(
        "",
        description="model that an empty name stands for; none: fashion-mnist where served, else the first",
    )
    provider: Literal["auto", "cpu", "cuda", "cuda-fp16", "openvino"] = Field(
        "auto",
        description="where graphs run, required where named; auto takes cuda where it works, else cpu; "
        "cuda-fp16 and openvino (bf16) are faster and less exact",
    )
    close_pixels: float = Field(
        0.99,
        ge=0,
        le=1,
        description="share of pixels that such a decoder must have within 1 of 255 of its golden outputs",
    )
    threads: int = Field(
        0, ge=0, le=1024, description="CPU batches side by side, a core each; 0: the cores it may really use"
    )
    latency_goal_ms: float = Field(
        25.0,
        ge=0,
        le=60_000,
        description="a batch takes at most half of it and waits at most a tenth for more rows; 0: no bound, no wait",
    )
    max_rows: int = Field(
        1024, ge=1, le=65536, description="most rows of one call (n x steps for Interpolate)"
    )
    max_batch: int = Field(64, ge=1, le=4096, description="most rows that run as one batch")
    max_queue_rows: int = Field(
        4096, ge=1, le=1 << 20, description="most unanswered rows in front of one graph"
    )
    max_message_mib: int = Field(16, ge=1, le=1024, description="largest request message in MiB")
    grace: float = Field(30.0, ge=0, le=3600, description="seconds that calls in flight have at shutdown")
    tls_cert: Path | None = Field(None, description="PEM certificate chain of the server; turns TLS on")
    tls_key: Path | None = Field(None, description="PEM private key of the server")
    tls_client_ca: Path | None = Field(
        None, description="PEM authorities of client certificates; turns mTLS on"
    )
    tokens_file: Path | None = Field(
        None,
        description="bearer tokens that may call, lines of NAME SHA256-HEX [RPC,RPC...]; none: everybody",
    )
    log_format: Literal["text", "json"] = Field("text", description="form of the log lines on stderr")

    @model_validator(mode="after")
    def _agree(self) -> Settings:
        if self.max_queue_rows < self.max_rows:
            raise ValueError(
                f"max_queue_rows ({self.max_queue_rows}) is below max_rows ({self.max_rows}): "
                "a call of the full size could never be taken"
            )
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key go together; one of them is missing")
        if self.tls_client_ca and not self.tls_cert:
            raise ValueError("tls_client_ca needs tls_cert and tls_key")
        return self


def flag(name: str) -> str:
    """Give the command-line flag of a setting."""
    return "--" + name.replace("_", "-")


def variable(name: str) -> str:
    """Give the environment variable of a setting."""
    return PREFIX + name.upper()


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Give ``parser`` one flag for each setting."""
    for name, field in Settings.model_fields.items():
        choices = get_args(field.annotation) if get_origin(field.annotation) is Literal else None
        parser.add_argument(
            flag(name),
            # Not argparse's own choices: load() says in one line what is wrong with any value.
            metavar="{" + ",".join(choices) + "}" if choices else name.upper(),
            default=argparse.SUPPRESS,
            help=f"{field.description} [{variable(name)}; default: {_default(field.default)}]".replace(
                "%", "%%"
            ),
        )


def load(flags: Mapping[str, Any], environ: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings from flags, then the environment, then the defaults.

    Raises:
        BadSettings: a value that cannot be, or an ARMOIRE_ variable that nobody reads.
    """
    known = {variable(name): name for name in Settings.model_fields}
    for name in sorted(environ):
        if name.startswith(PREFIX) and name not in known and not _foreign(name, environ):
            near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.0)
            raise BadSettings(f"the environment has {name}, which is no setting; the nearest is {near[0]}")
    # An empty variable is an unset one.
    values = {name: environ[key] for key, name in known.items() if environ.get(key)}
    try:
        return Settings(**values | dict(flags))
    except ValidationError as error:
        raise BadSettings("; ".join(_explain(fault, flags) for fault in error.errors())) from None


def _foreign(name: str, environ: Mapping[str, str]) -> bool:
    """Whether somebody else reads a variable; one that looks like Kubernetes' must have such a value, too."""
    if FOREIGN.fullmatch(name):
        return True
    injected = INJECTED.fullmatch(name)
    if injected is None or URL.fullmatch(environ[name]):
        return injected is not None
    beside_its_host = f"{injected['service']}_SERVICE_HOST" in environ
    return beside_its_host and not injected["url"] and bool(HOST_OR_PORT.fullmatch(environ[name]))


def _explain(fault: Any, flags: Mapping[str, Any]) -> str:
    text = fault["msg"].removeprefix("Value error, ")
    if not fault["loc"]:
        return str(text)
    name = str(fault["loc"][0]).lower()
    source = flag(name) if name in flags else variable(name)
    return f"{source} is {str(fault['input'])!r}: {text}"


def row(name: str) -> str:
    """Give a setting's row of the README's table: flag, variable, default, meaning."""
    field = Settings.model_fields[name]
    return f"| `{flag(name)}` | `{variable(name)}` | {_default(field.default)} | {field.description} |"


def _default(value: object) -> str:
    if value == BUNDLED_MODELS:
        return "the bundled models"
    return "none" if value in (None, "") else str(value)
