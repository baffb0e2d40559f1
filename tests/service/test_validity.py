"""Until when certificates are valid, held to what another library reads."""

from __future__ import annotations

import datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from armoire.wire.validity import expires

KEY = ec.generate_private_key(ec.SECP256R1())
# Of version 1, as `openssl x509 -req` makes them: no field says which version it is.
FIRST_VERSION = b"""\
-----BEGIN CERTIFICATE-----
MIIBFDCBuwIUWOlh9j4cohTl9mxt0757mvBEq+AwCgYIKoZIzj0EAwIwDTELMAkG
A1UEAwwCdjEwHhcNMjYxMTI2MDQxMzU5WhcNMzYxMTIzMDQxMzU5WjANMQswCQYD
VQQDDAJ2MTBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABF0ZnxaNaR5A78I9zNa1
VG+ijcE1Gz3eD3CdUMhfBCsMBhhgWsQP7/fusc61CrdJwo5tj7HkeCV400ClXOSQ
y6YwCgYIKoZIzj0EAwIDSAAwRQIhALg62BI8C8RajR602g2xAA6Lnb6RQYfZU3fu
uKgvbPDXAiApwdc3Lm8qwaoPJPSwRGeYzWdlYdpOacygsb1rW6gn1w==
-----END CERTIFICATE-----
"""
SECOND = datetime.timedelta(seconds=1)


def certificate(end: datetime.datetime, name: str = "x", serial: int = 1) -> bytes:
    who = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    builder = x509.CertificateBuilder(who, who, KEY.public_key(), serial, end - SECOND, end)
    return builder.sign(KEY, hashes.SHA256()).public_bytes(Encoding.PEM)


@given(
    end=st.datetimes(datetime.datetime(1950, 1, 2), datetime.datetime(9999, 12, 31)),
    name=st.text(st.characters(codec="ascii", min_codepoint=32), min_size=1, max_size=64),
    serial=st.integers(1, (1 << 159) - 1),
)
def test_the_end_is_what_another_library_reads(end: datetime.datetime, name: str, serial: int) -> None:
    """Whatever the year, before and after 2050, the length of the names and of the number."""
    pem = certificate(end.replace(microsecond=0), name, serial)
    assert expires(pem) == x509.load_pem_x509_certificate(pem).not_valid_after_utc.timestamp()


@pytest.mark.parametrize("year", [1950, 1999, 2000, 2049, 2050, 9999])
def test_years_of_two_digits_lie_from_1950_to_2049(year: int) -> None:
    """The two forms of a time meet where RFC 5280 says."""
    end = datetime.datetime(year, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)
    assert expires(certificate(end)) == end.timestamp()


def test_of_a_chain_the_first_end_counts() -> None:
    """A chain is no longer trusted when any of its certificates has expired; text between them is passed over."""
    ends = [datetime.datetime(year, 5, 1, tzinfo=datetime.UTC) for year in (2031, 2029, 2040)]
    chain = b"subject=x\n".join(certificate(end) for end in ends)
    assert expires(chain) == ends[1].timestamp()


def test_a_certificate_of_version_1_is_read() -> None:
    """Without the optional version its fields begin with the serial number."""
    read = x509.load_pem_x509_certificate(FIRST_VERSION)
    assert read.version is x509.Version.v1
    assert expires(FIRST_VERSION) == read.not_valid_after_utc.timestamp()


@given(st.binary(max_size=300))
def test_what_is_no_certificate_is_a_value_error(content: bytes) -> None:
    """Any bytes in a certificate's frame, and no frame at all, are one kind of error."""
    import base64

    frame = b"-----BEGIN CERTIFICATE-----\n%s\n-----END CERTIFICATE-----\n"
    for pem in (content, frame % base64.encodebytes(content)):
        with pytest.raises(ValueError):  # noqa: PT011
            expires(pem)
