"""What TLS needs at the client's end, read from files."""

from __future__ import annotations

import ssl
from pathlib import Path

import grpc

from armoire import errors


def read_credentials(ca: Path | None, key: Path | None, certificate: Path | None) -> grpc.ChannelCredentials:
    """Read PEM files: authorities to trust (None: the system's), and this client's own key and certificate.

    Raises:
        InvalidArgument: a key without its certificate, or no certificate among the authorities. Of both gRPC tells
            nothing but that no server is there, or ends the process.
        OSError: a file cannot be read.
    """
    trusted, *own = (path.read_bytes() if path else None for path in (ca, key, certificate))
    if (key is None) != (certificate is None):
        raise errors.InvalidArgument("--tls-cert and --tls-key go together; one of them is missing")
    if trusted is not None:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(
                cadata=trusted.decode("ascii", "ignore")
            )
        except (ssl.SSLError, ValueError):
            raise errors.InvalidArgument(f"--tls-ca {ca} holds no PEM certificate") from None
    return grpc.ssl_channel_credentials(trusted, *own)
