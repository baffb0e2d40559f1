"""Until when certificates are valid: the one thing that the ssl module tells of a peer's certificates only."""

from __future__ import annotations

import re
import ssl
from datetime import UTC, datetime

CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
# Tags of DER (X.690): the optional version in front of a certificate's fields, and a time with a year of two digits.
VERSION, UTC_TIME = 0xA0, 0x17


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


def _not_after(der: bytes) -> float:
    # RFC 5280, section 4.1: a certificate is its fields and their signature; the fields are version, serial number,
    # algorithm, issuer, validity and more; validity is two times.
    certificate = _elements(_elements(der)[0][1])
    fields = _elements(certificate[0][1])
    if fields[0][0] == VERSION:
        del fields[0]
    tag, text = _elements(fields[3][1])[1]
    time = text.decode("ascii")
    if tag == UTC_TIME:
        time = ("19" if time >= "50" else "20") + time
    return datetime.strptime(time, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()


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
