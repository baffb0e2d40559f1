"""Where calls go and what each of them says: all that a client process must know of the target."""

from __future__ import annotations

import ssl
from dataclasses import dataclass

USER_AGENT = "armoire-bench"


@dataclass(frozen=True)
class Route:
    """A server, a method of it, and what comes with every call."""

    address: str
    path: str
    timeout: float
    token: str | None = None
    tls: dict[str, str | None] | None = None  # ca, cert and key, each a file or None

    @property
    def host_and_port(self) -> tuple[str, int]:
        """Read HOST:PORT, [IPV6]:PORT or dns:///HOST:PORT.

        Raises:
            ValueError: something else came.
        """
        host, colon, port = self.address.removeprefix("dns:///").rpartition(":")
        if not colon or not port.isdecimal() or not host or "/" in host:
            raise ValueError(f"address: {self.address} came; HOST:PORT is wanted")
        return host.removeprefix("[").removesuffix("]"), int(port)

    def headers(self) -> list[tuple[str, str]]:
        """Give the headers of every call, as gRPC over HTTP/2 wants them."""
        host, port = self.host_and_port
        return [
            (":method", "POST"),
            (":scheme", "https" if self.tls else "http"),
            (":path", self.path),
            (":authority", f"[{host}]:{port}" if ":" in host else f"{host}:{port}"),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            ("user-agent", USER_AGENT),
            ("grpc-timeout", f"{max(1, round(self.timeout * 1e3))}m"),
            *([("authorization", f"Bearer {self.token}")] if self.token else ()),
        ]

    def context(self) -> ssl.SSLContext | None:
        """Trust and identity for TLS; None for plain text."""
        if self.tls is None:
            return None
        context = ssl.create_default_context(cafile=self.tls["ca"])
        context.set_alpn_protocols(["h2"])
        if self.tls["cert"]:
            context.load_cert_chain(self.tls["cert"], self.tls["key"])
        return context
