"""The server's end of TLS: its certificate, taken anew for new connections when the files are renewed."""

from __future__ import annotations

import logging
import ssl
import time
from pathlib import Path
from typing import NamedTuple

import grpc

from armoire.errors import BadSettings
from armoire.metrics import Metrics
from armoire.wire import validity

logger = logging.getLogger("armoire.tls")
# So often files are read until they stand still.
ATTEMPTS = 5
# What OpenSSL says of a key that is another certificate's, of the same kind or of another.
ANOTHER_KEY = ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED")


class _Files(NamedTuple):
    """What the files hold; no client_ca: everybody may connect."""

    cert: bytes
    key: bytes
    client_ca: bytes | None


class Certificates:
    """The server's certificate and key, and the authorities of its clients."""

    def __init__(self, cert: Path, key: Path, client_ca: Path | None, metrics: Metrics) -> None:
        """Read the files.

        Raises:
            BadSettings: a file cannot be read, or they do not fit together.
        """
        self._cert, self._key, self._client_ca = cert, key, client_ca
        self._metrics = metrics
        self._files = self._read_fitting()
        self._current = self._taken = self._configuration()
        self._told = ""

    def credentials(self) -> grpc.ServerCredentials:
        """Give what a port of the server is opened with."""
        return grpc.dynamic_ssl_server_credentials(
            self._current,
            self._renewed,  # type: ignore[arg-type]  # None is gRPC's own word for: nothing has changed
            require_client_authentication=self._client_ca is not None,
        )

    def reload(self) -> None:
        """Read the files again, from any thread; those that cannot be used are told once, and the old ones stay."""
        try:
            if self._read() != self._files:
                self._files = self._read_fitting()
                self._current = self._configuration()
                logger.info("tls_cert %s was renewed; new connections get it", self._cert)
            self._told = ""
        except BadSettings as error:
            if str(error) != self._told:
                logger.error("%s; the certificate of before stays in use", error)
            self._told = str(error)

    def _renewed(self) -> grpc.ServerCertificateConfiguration | None:
        """Tell gRPC, which asks at every handshake and in a thread of its own, what is new; None: nothing."""
        current = self._current
        if current is self._taken:
            return None
        self._taken = current
        return current

    def _configuration(self) -> grpc.ServerCertificateConfiguration:
        """Make gRPC's form of the files, and publish until when they are good."""
        cert, key, client_ca = self._files
        self._publish("tls_cert", self._cert, cert)
        if self._client_ca is not None and client_ca is not None:
            self._publish("tls_client_ca", self._client_ca, client_ca)
        return grpc.ssl_server_certificate_configuration([(key, cert)], client_ca)

    def _publish(self, setting: str, path: Path, content: bytes) -> None:
        end = validity.expires(content)
        self._metrics.certificate_expiration.labels(setting).set(end)
        if end < time.time():
            logger.warning("%s %s holds a certificate that has expired; renew it", setting, path)

    def _read_fitting(self) -> _Files:
        """Read files that fit together.

        Kubernetes swaps all of them by one link, others write one after the other: what is replaced while it is read
        and checked is read again.
        """
        for _ in range(ATTEMPTS):
            files = self._read()
            fault = self._fault(files)
            if files == self._read():
                break
        else:
            fault = f"tls_cert {self._cert} and what belongs to it are being written all the time"
        if fault:
            raise BadSettings(fault)
        return files

    def _read(self) -> _Files:
        return _Files(
            _content("tls_cert", self._cert),
            _content("tls_key", self._key),
            _content("tls_client_ca", self._client_ca) if self._client_ca else None,
        )

    def _fault(self, files: _Files) -> str:
        """Say what is wrong with the files; empty: nothing."""
        cert, key = f"tls_cert {self._cert}", f"tls_key {self._key}"
        if not _are_certificates(files.cert):
            return f"{cert} holds no PEM certificate"
        if files.client_ca is not None and not _are_certificates(files.client_ca):
            return f"tls_client_ca {self._client_ca} holds no PEM certificate"
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self._cert, self._key, _no_password)
        except _EncryptedError:
            return f"{key} is encrypted; a key without a password is wanted"
        except ssl.SSLError as error:
            if error.reason in ANOTHER_KEY:
                return f"{key} is not the key of {cert}: do they belong together?"
            # That there are certificates was seen above.
            return f"{key} does not fit {cert}: {error.reason}" if error.reason else f"{key} holds no PEM key"
        except OSError as error:
            return f"{cert} or {key} cannot be read: {error.strerror}"
        if not validity.can_be_served(files.cert):
            return f"{cert} has a key of a kind that gRPC cannot serve: RSA, or ECDSA on P-256 or P-384 is wanted"
        return ""


class _EncryptedError(Exception):
    """OpenSSL asks for a password, which would be asked for on the terminal."""


def _no_password() -> str:
    raise _EncryptedError


def _content(setting: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadSettings(f"{setting} {path} cannot be read: {error.strerror}") from None


def _are_certificates(content: bytes) -> bool:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(
            cadata=content.decode("ascii", "ignore")
        )
        validity.expires(content)
    except (ssl.SSLError, ValueError):
        return False
    return True
