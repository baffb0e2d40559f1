"""TLS over real channels: who is let in, who is refused and how, and certificates that are renewed while serving."""

from __future__ import annotations

import datetime
import ipaddress
import logging
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from armoire import errors
from armoire.client import Client
from armoire.metrics import Metrics
from armoire.v1 import armoire_pb2 as pb
from armoire.v1 import armoire_pb2_grpc as pb_grpc
from armoire.wire.certificates import Certificates
from tests.service.test_access import line, until
from tests.service.test_server import process, scrape, value
from tests.serving import Running, serving

PAST = datetime.datetime(2021, 1, 1, tzinfo=datetime.UTC)
EXPIRED = {"not_before": PAST, "not_after": PAST + datetime.timedelta(days=1)}
GAUGE = 'armoire_tls_certificate_expiration_timestamp_seconds{setting="%s"}'
# The least that a refusal may need on a busy machine, and far less than a caller's patience.
BOUND, PATIENCE = 20.0, 60.0


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def other() -> trustme.CA:
    """An authority that nobody here trusts."""
    return trustme.CA()


def chain(pair: trustme.LeafCert) -> bytes:
    return b"".join(blob.bytes() for blob in pair.cert_chain_pems)


def write(folder: Path, pair: trustme.LeafCert, client_ca: trustme.CA | None = None) -> dict[str, Path]:
    """Write what a server needs, and give its settings."""
    (folder / "cert.pem").write_bytes(chain(pair))
    (folder / "key.pem").write_bytes(pair.private_key_pem.bytes())
    settings = {"tls_cert": folder / "cert.pem", "tls_key": folder / "key.pem"}
    if client_ca is not None:
        (folder / "ca.pem").write_bytes(client_ca.cert_pem.bytes())
        settings["tls_client_ca"] = folder / "ca.pem"
    return settings


def trusting(authority: trustme.CA, own: trustme.LeafCert | None = None) -> grpc.ChannelCredentials:
    """A client's credentials: whom it trusts, and its own certificate."""
    root = authority.cert_pem.bytes()
    if own is None:
        return grpc.ssl_channel_credentials(root)
    return grpc.ssl_channel_credentials(root, own.private_key_pem.bytes(), chain(own))


def expiry(pem: bytes) -> float:
    """The end of the first certificate's validity, as another library reads it."""
    return x509.load_pem_x509_certificate(pem).not_valid_after_utc.timestamp()


def served(running: Running) -> str:
    """The certificate that a new connection is shown."""
    host, _, port = running.address.rpartition(":")
    return ssl.get_server_certificate((host, int(port)), timeout=30).strip()


def first(pair: trustme.LeafCert) -> str:
    return pair.cert_chain_pems[0].bytes().decode().strip()


def refusal(running: Running, credentials: grpc.ChannelCredentials | None) -> errors.ArmoireError:
    """How a client is refused, within bounds."""
    began = time.monotonic()
    with (
        Client(running.address, credentials=credentials, timeout=PATIENCE) as client,
        pytest.raises(errors.ArmoireError) as refused,
    ):
        client.models()
    assert time.monotonic() - began < BOUND
    return refused.value


def look(running: Running) -> None:
    """Have the server look at its files, and wait until it has."""
    running.run(running.server._look_at_access(True))


def signed_by_itself(folder: Path, key: Any) -> tuple[dict[str, Path], grpc.ChannelCredentials]:
    """A server's settings with a certificate of that key, and the credentials of who trusts it."""
    name, now = x509.Name([]), datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=True
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256())
    )
    settings = {"tls_cert": folder / "cert.pem", "tls_key": folder / "key.pem"}
    pem = certificate.public_bytes(Encoding.PEM)
    settings["tls_cert"].write_bytes(pem)
    settings["tls_key"].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return settings, grpc.ssl_channel_credentials(pem)


@pytest.mark.parametrize(
    "key",
    [
        rsa.generate_private_key(65537, 2048),
        ec.generate_private_key(ec.SECP256R1()),
        ec.generate_private_key(ec.SECP384R1()),
    ],
    ids=["RSA", "P-256", "P-384"],
)
def test_keys_of_the_kinds_that_readme_names_serve(tmp_path: Path, key: Any) -> None:
    """RSA, and ECDSA on P-256 and P-384."""
    settings, credentials = signed_by_itself(tmp_path, key)
    with serving(**settings) as running:
        answers(running, credentials)


@pytest.mark.parametrize(
    "key",
    [ec.generate_private_key(ec.SECP521R1()), ed25519.Ed25519PrivateKey.generate()],
    ids=["P-521", "Ed25519"],
)
def test_a_key_of_another_kind_stops_the_start(tmp_path: Path, key: Any) -> None:
    """With it gRPC would listen, and no client could ever agree with it: the server says which kinds it takes."""
    settings, _ = signed_by_itself(tmp_path, key)
    with (
        pytest.raises(errors.BadSettings, match="RSA, or ECDSA on P-256 or P-384 is wanted"),
        serving(**settings),
    ):
        pass


@pytest.mark.parametrize("wrong", ["plain text", "authority", "expired", "host"])
def test_a_client_that_cannot_trust_the_server_says_why(
    tmp_path: Path, authority: trustme.CA, other: trustme.CA, wrong: str
) -> None:
    """Plain text, a wrong authority, an expired certificate, a wrong name: Unavailable with advice."""
    pair = authority.issue_cert(
        "armoire.example" if wrong == "host" else "127.0.0.1", **(EXPIRED if wrong == "expired" else {})
    )
    credentials = {"plain text": None, "authority": trusting(other)}.get(wrong, trusting(authority))
    advice = {
        "plain text": "does it want TLS",
        "authority": "no authority that is trusted here signed the server's certificate",
        "expired": "the server's certificate has expired",
        "host": "the server's certificate is for another name",
    }[wrong]
    with serving(**write(tmp_path, pair)) as running:
        refused = refusal(running, credentials)
        assert isinstance(refused, errors.Unavailable)
        assert advice in str(refused)
        # The server goes on: a caller who can trust what it shows is answered.
        options = [("grpc.ssl_target_name_override", "armoire.example")] if wrong == "host" else []
        if wrong == "expired":
            write(tmp_path, authority.issue_cert("127.0.0.1"))
            look(running)
        answers(running, trusting(authority), options)


def answers(
    running: Running, credentials: grpc.ChannelCredentials, options: list[tuple[str, str]] | None = None
) -> None:
    """See that a caller with these credentials is answered."""
    with grpc.secure_channel(running.address, credentials, options) as channel:
        reply = pb_grpc.LatentServiceStub(channel).Sample(pb.SampleRequest(count=2), timeout=30)
    assert list(reply.latents.shape) == [2, 16]


@pytest.mark.parametrize("wrong", ["none", "authority", "expired", "plain text"])
def test_a_client_that_the_server_cannot_trust_is_refused(
    tmp_path: Path, authority: trustme.CA, other: trustme.CA, wrong: str
) -> None:
    """Under mTLS no certificate, another authority's, an expired one: Unavailable with advice, and others go on."""
    own = {
        "none": None,
        "authority": other.issue_cert("caller@example.com"),
        "expired": authority.issue_cert("caller@example.com", **EXPIRED),
        "plain text": None,
    }[wrong]
    credentials = None if wrong == "plain text" else trusting(authority, own)
    with serving(**write(tmp_path, authority.issue_cert("127.0.0.1"), authority)) as running:
        refused = refusal(running, credentials)
        assert isinstance(refused, errors.Unavailable)
        assert "a client certificate that its authority signed and that has not expired" in str(refused)
        answers(running, trusting(authority, authority.issue_cert("caller@example.com")))


def test_tls_towards_a_server_of_plain_text_says_so(server: Running, authority: trustme.CA) -> None:
    """A client that speaks TLS to a plain port is told that the server speaks none."""
    refused = refusal(server, trusting(authority))
    assert isinstance(refused, errors.Unavailable)
    assert "the server speaks plain text" in str(refused)


def test_a_revoked_token_is_refused_over_tls(tmp_path: Path, authority: trustme.CA) -> None:
    """A token that was taken out of the file is Unauthenticated, on the connection that is open too."""
    tokens = tmp_path / "tokens"
    tokens.write_text(line("old", "old-secret") + line("stays", "other-secret"))
    settings = write(tmp_path, authority.issue_cert("127.0.0.1"))
    with (
        serving(tokens_file=tokens, reload_seconds="0", **settings) as running,
        Client(running.address, credentials=trusting(authority), token="old-secret") as client,
        Client(running.address, credentials=trusting(authority), token="other-secret") as stays,
    ):
        client.models()
        tokens.write_text(line("stays", "other-secret"))
        look(running)
        with pytest.raises(errors.Unauthenticated, match="ask the operator") as refused:
            client.models()
        assert "old-secret" not in str(refused.value)
        assert stays.models()


def test_a_renewed_certificate_is_shown_to_new_connections(tmp_path: Path, authority: trustme.CA) -> None:
    """Within reload_seconds of the renewal; an open connection stays, and the gauge tells the new expiry."""
    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=3)
    old, new = authority.issue_cert("127.0.0.1", not_after=soon), authority.issue_cert("127.0.0.1")
    with serving(reload_seconds="0.05", **write(tmp_path, old)) as running:
        assert value(scrape(running), GAUGE % "tls_cert") == expiry(chain(old))
        with Client(running.address, credentials=trusting(authority)) as client:
            client.models()
            assert served(running) == first(old)
            write(tmp_path, new)
            until(lambda: served(running) == first(new), "the renewed certificate")
            assert client.models()
        assert value(scrape(running), GAUGE % "tls_cert") == expiry(chain(new))
        for _ in range(3):  # gRPC is told once and keeps it
            assert served(running) == first(new)
        answers(running, trusting(authority))


class Mount:
    """A Secret as Kubernetes mounts it: files that are links into ..data, a link that is renamed over the old one."""

    def __init__(self, folder: Path, pairs: list[trustme.LeafCert]) -> None:
        self._folder = folder
        for number, pair in enumerate(pairs):
            (folder / f"..{number}").mkdir()
            (folder / f"..{number}" / "tls.crt").write_bytes(chain(pair))
            (folder / f"..{number}" / "tls.key").write_bytes(pair.private_key_pem.bytes())
        self.show(0)
        for name in ("tls.crt", "tls.key"):
            (folder / name).symlink_to(Path("..data") / name)
        self.settings = {"tls_cert": folder / "tls.crt", "tls_key": folder / "tls.key"}

    def show(self, number: int) -> None:
        (self._folder / "..data_tmp").symlink_to(f"..{number}")
        (self._folder / "..data_tmp").replace(self._folder / "..data")


def test_kubernetes_swaps_a_link_to_all_files(tmp_path: Path, authority: trustme.CA) -> None:
    """Whatever the link leads to is taken for new connections."""
    pairs = [authority.issue_cert("127.0.0.1") for _ in range(4)]
    mount = Mount(tmp_path, pairs)
    with serving(reload_seconds="0.02", **mount.settings) as running:
        for number in (1, 2, 3, 0):
            mount.show(number)
            until(lambda number=number: served(running) == first(pairs[number]), f"revision {number}")
            answers(running, trusting(authority))


class Watched(type(Path())):
    """A path that has something happen behind its first reading."""

    then: Callable[[], None] | None = None

    def read_bytes(self) -> bytes:
        content = super().read_bytes()
        then, self.then = self.then, None
        if then is not None:
            then()
        return content


@pytest.mark.parametrize("after", ["tls.crt", "tls.key"])
def test_a_swap_in_the_middle_of_a_look_is_no_fault(
    tmp_path: Path, authority: trustme.CA, caplog: pytest.LogCaptureFixture, after: str
) -> None:
    """A certificate of one revision and a key of the next are never taken for a pair, nor complained of."""
    caplog.set_level(logging.INFO)
    pairs = [authority.issue_cert("127.0.0.1") for _ in range(3)]
    mount = Mount(tmp_path, pairs)
    paths = {name: Watched(tmp_path / name) for name in ("tls.crt", "tls.key")}
    metrics = Metrics()
    certificates = Certificates(paths["tls.crt"], paths["tls.key"], None, metrics)
    mount.show(1)
    # One look to see that there is something new, one to read it.
    paths["tls.crt"].then = lambda: setattr(paths[after], "then", lambda: mount.show(2))
    certificates.reload()
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert certificates._files[:2] == (chain(pairs[2]), pairs[2].private_key_pem.bytes())


def test_a_pair_that_is_half_renewed_waits_for_its_other_half(
    tmp_path: Path, authority: trustme.CA, caplog: pytest.LogCaptureFixture
) -> None:
    """While only the one file is new the old pair is shown and the log says so once; with the other the new one is."""
    old, new = authority.issue_cert("127.0.0.1"), authority.issue_cert("127.0.0.1")
    with serving(reload_seconds="0", **write(tmp_path, old)) as running:
        (tmp_path / "cert.pem").write_bytes(chain(new))
        for _ in range(3):
            look(running)
            assert served(running) == first(old)
            answers(running, trusting(authority))
        (told,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
        assert told == (
            f"tls_key {tmp_path}/key.pem is not the key of tls_cert {tmp_path}/cert.pem: do they belong together?; "
            "the certificate of before stays in use"
        )
        (tmp_path / "key.pem").write_bytes(new.private_key_pem.bytes())
        look(running)
        assert served(running) == first(new)
        answers(running, trusting(authority))


def encrypted(pair: trustme.LeafCert) -> bytes:
    key = load_pem_private_key(pair.private_key_pem.bytes(), None)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"tell-nobody"))


DAMAGES = {
    "no certificate": ("cert.pem", b"no PEM at all", "tls_cert {}/cert.pem holds no PEM certificate"),
    "empty certificate": ("cert.pem", b"", "tls_cert {}/cert.pem holds no PEM certificate"),
    "no key": ("key.pem", b"no PEM at all", "tls_key {}/key.pem holds no PEM key"),
    "encrypted key": ("key.pem", encrypted, "tls_key {}/key.pem is encrypted"),
    "certificate gone": ("cert.pem", None, "tls_cert {}/cert.pem cannot be read: No such file"),
    "key gone": ("key.pem", None, "tls_key {}/key.pem cannot be read: No such file"),
    "no authority": ("ca.pem", b"no PEM at all", "tls_client_ca {}/ca.pem holds no PEM certificate"),
    "authority gone": ("ca.pem", None, "tls_client_ca {}/ca.pem cannot be read: No such file"),
}


def damage(folder: Path, pair: trustme.LeafCert, name: str) -> str:
    """Damage one file, and give what should be said of it."""
    file, content, told = DAMAGES[name]
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_bytes(content(pair) if callable(content) else content)
    return told.format(folder)


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_renewal_leaves_the_old_certificate(
    tmp_path: Path, authority: trustme.CA, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """One log line, however often it is looked at and called, names the file and why, and callers notice nothing."""
    pair = authority.issue_cert("127.0.0.1")
    mine = trusting(authority, authority.issue_cert("caller@example.com"))
    with serving(reload_seconds="0", **write(tmp_path, pair, authority)) as running:
        wanted = damage(tmp_path, pair, name)
        for _ in range(3):
            look(running)
            answers(running, mine)
        (told,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
        assert told.startswith(wanted)
        assert "PRIVATE" not in told
        renewed = authority.issue_cert("127.0.0.1")
        write(tmp_path, renewed, authority)
        look(running)
        answers(running, mine)


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_file_stops_the_start_in_one_line(tmp_path: Path, authority: trustme.CA, name: str) -> None:
    """Before anybody is served the same faults end with status 2 and the file's name."""
    pair = authority.issue_cert("127.0.0.1")
    settings = write(tmp_path, pair, authority)
    wanted = damage(tmp_path, pair, name)
    flags = [
        part for setting, path in settings.items() for part in (f"--{setting.replace('_', '-')}", str(path))
    ]
    with process(*flags) as server:
        _, text = server.communicate(timeout=60)
    assert server.returncode == 2
    assert text.splitlines()[-1].startswith(f"armoire: {wanted}")


def test_renewed_authorities_hold_for_new_connections(
    tmp_path: Path, authority: trustme.CA, other: trustme.CA
) -> None:
    """With another tls_client_ca its callers come in and those of the old one are refused; the gauge follows."""
    pair = authority.issue_cert("127.0.0.1")
    mine, theirs = (each.issue_cert("caller@example.com") for each in (authority, other))
    with serving(reload_seconds="0", **write(tmp_path, pair, authority)) as running:
        answers(running, trusting(authority, mine))
        assert isinstance(refusal(running, trusting(authority, theirs)), errors.Unavailable)
        (tmp_path / "ca.pem").write_bytes(other.cert_pem.bytes())
        look(running)
        answers(running, trusting(authority, theirs))
        assert isinstance(refusal(running, trusting(authority, mine)), errors.Unavailable)
        assert value(scrape(running), GAUGE % "tls_client_ca") == expiry(other.cert_pem.bytes())


def test_without_tls_there_is_no_expiry_to_alert_on(server: Running) -> None:
    """A gauge of zero would look like a certificate that expired in 1970."""
    assert not [line for line in scrape(server).splitlines() if line.startswith("armoire_tls_")]


def test_an_expired_certificate_is_told_in_the_log(
    tmp_path: Path, authority: trustme.CA, caplog: pytest.LogCaptureFixture
) -> None:
    """It is served, since the clock may be wrong, and the log warns of it."""
    with serving(**write(tmp_path, authority.issue_cert("127.0.0.1", **EXPIRED))):
        assert f"tls_cert {tmp_path}/cert.pem holds a certificate that has expired" in caplog.text


def test_renewals_under_load_fail_nobody(tmp_path: Path, authority: trustme.CA) -> None:
    """While the pair is renewed many times, one file after the other, all who connect anew are answered."""
    pairs = [authority.issue_cert("127.0.0.1") for _ in range(4)]
    ended = threading.Event()
    failures: list[BaseException] = []

    def caller(running: Running) -> None:
        while not ended.is_set():
            try:
                answers(running, trusting(authority))
            except BaseException as error:
                failures.append(error)
                return

    with serving(reload_seconds="0.02", **write(tmp_path, pairs[0])) as running:
        callers = [threading.Thread(target=caller, args=(running,)) for _ in range(3)]
        for thread in callers:
            thread.start()
        for number in range(1, 20):
            pair = pairs[number % len(pairs)]
            write(tmp_path, pair)
            until(lambda pair=pair: served(running) == first(pair), f"renewal {number}")
        ended.set()
        for thread in callers:
            thread.join(60)
    assert not failures
