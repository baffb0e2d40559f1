"""Until when certificates are valid and of what kind their keys are: the ssl module tells it of a peer's only."""

from __future__ import annotations

import re
import ssl
from datetime import UTC, datetime

CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
# Tags of DER (X.690): the optional version in front of a certificate's fields, and a time with a year of two digits.
VERSION, UTC_TIME = 0xA0, 0x17
# Of what kinds of key gRPC makes signatures that its own clients take: the object identifiers (RFC 3279, RFC 5480) of
# RSA, and of elliptic curves with P-256 and P-384.
RSA, ELLIPTIC = bytes.fromhex("2a864886f70d010101"), bytes.fromhex("2a8648ce3d0201")
CURVES = (bytes.fromhex("2a8648ce3d030107"), bytes.fromhex("2b81040022"))


def expires(pem: bytes) -> float:
    """Give the moment, in unix seconds, at which the first of a PEM file's certificates ceases to be valid.

    Raises:
        ValueError: no certificate, or one that is none.
    """
    text = pem.decode("ascii", "ignore")
    try:
        return min(_not_after(ssl.PEM_cert_to_DER_cert(found)) for found in CERTIFICATE.findall(text))
    except IndexError:
        raise ValueError("the certificate ends too early") from None


def can_be_served(pem: bytes) -> bool:
    """Tell whether gRPC can serve the first of a PEM file's certificates, by the kind of its key.

    Raises:
        ValueError: no certificate, or one that is none.
    """
    first = CERTIFICATE.search(pem.decode("ascii", "ignore"))
    if first is None:
        raise ValueError("no certificate")
    try:
        # RFC 5280, section 4.1: subject's public key, its algorithm, and of that the name and the parameters.
        algorithm, *parameters = _elements(_elements(_fields(ssl.PEM_cert_to_DER_cert(first[0]))[5][1])[0][1])
    except IndexError:
        raise ValueError("the certificate ends too early") from None
    kind = algorithm[1]
    return kind == RSA or (kind == ELLIPTIC and bool(parameters) and parameters[0][1] in CURVES)


def _not_after(der: bytes) -> float:
    # Validity is two times.
    tag, text = _elements(_fields(der)[3][1])[1]
    time = text.decode("ascii")
    if tag == UTC_TIME:
        time = ("19" if time >= "50" else "20") + time
    return datetime.strptime(time, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()


def _fields(der: bytes) -> list[tuple[int, bytes]]:
    # RFC 5280, section 4.1: a certificate is its fields and their signature; the fields are version, which may be left
    # out and is left out here, serial number, algorithm, issuer, validity, subject, the subject's public key and more.
    certificate = _elements(_elements(der)[0][1])
    fields = _elements(certificate[0][1])
    if fields[0][0] == VERSION:
        del fields[0]
    return fields


def _elements(content: bytes) -> list[tuple[int, bytes]]:
    """Split DER into its elements, the tag and the content of each."""
    elements, start = [], 0
    while start < len(content):
        tag, size = content[start], content[start + 1]
        start += 2
        if size >= 0x80:  # a large size has a size of its own
            start, size = start + size - 0x80, int.from_bytes(content[start : start + size - 0x80])
        elements.append((tag, content[start : start + size]))
        start += size
    return elements
