"""The tls component against a real server: the probe's own command, certificates such as cert-manager would make."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
import trustme
from grpc_health.v1 import health_pb2, health_pb2_grpc

from armoire.client import Client
from armoire.wire.credentials import read_credentials
from tests.deploy.rendered import Resource, build, container, of_kind, settings, the
from tests.serving import serving

BUILD = "base+tls"
FILES = ("tls.crt", "tls.key", "ca.crt")
Secrets = dict[str, Path]


def certificate(name: str) -> Resource:
    (found,) = [c for c in of_kind(build(BUILD), "Certificate") if c["metadata"]["name"] == name]
    return found["spec"]


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Secrets:
    """The folders that the Secrets would be mounted as."""
    authority, folders = trustme.CA(), {}
    for name in ("armoire", "armoire-client"):
        spec = certificate(name)
        names = [*spec.get("dnsNames", []), *spec.get("ipAddresses", [])]
        pair = authority.issue_cert(*names, common_name=spec["commonName"], key_type=trustme.KeyType.ECDSA)
        folder = tmp_path_factory.mktemp(name)
        content = (pair.cert_chain_pems[0], pair.private_key_pem, authority.cert_pem)
        for file, pem in zip(FILES, content, strict=True):
            pem.write_to_path(folder / file)
        folders[spec["secretName"]] = folder
    return folders


def mount() -> str:
    """Where the server's Secret is, as a folder and not as files, which would stay as they were."""
    pod = the(build(BUILD), "Deployment")["spec"]["template"]["spec"]
    (volume,) = pod["volumes"]
    assert volume["secret"]["secretName"] == certificate("armoire")["secretName"]
    (found,) = container(build(BUILD))["volumeMounts"]
    assert "subPath" not in found
    return found["mountPath"]


@pytest.fixture(scope="module")
def address(secrets: Secrets) -> Iterator[str]:
    """A server with the settings of the pod, its files where they are here."""
    pod = settings(build(BUILD))
    paths = {name: getattr(pod, name) for name in ("tls_cert", "tls_key", "tls_client_ca")}
    assert {str(path.parent) for path in paths.values()} == {mount()}
    with serving(**{name: secrets["armoire-tls"] / path.name for name, path in paths.items()}) as running:
        yield running.address


def probe(kind: str, address: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a probe's command as the kubelet would, but for the address and the folder of its files."""
    command = container(build(BUILD))[f"{kind}Probe"]["exec"]["command"]
    given = [word.replace(mount(), str(folder)) for word in command]
    given = [f"--address={address}" if word.startswith("--address=") else word for word in given]
    assert given[0] == "armoire"
    return subprocess.run(
        [sys.executable, "-m", "armoire.cli", *given[1:]], capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize("kind", ["startup", "readiness", "liveness"])
def test_a_probe_is_answered(kind: str, address: str, secrets: Secrets) -> None:
    """The command that the manifest gives comes through mTLS with the server's own certificate."""
    done = probe(kind, address, secrets["armoire-tls"])
    assert (done.returncode, done.stdout) == (0, "SERVING\n"), done.stderr


def test_a_native_probe_would_not_be(address: str, secrets: Secrets) -> None:
    """Neither in plain text nor with TLS but without a certificate is health told: this is why probes run a command."""
    trusting = read_credentials(secrets["armoire-tls"] / "ca.crt", None, None)
    for channel in (grpc.insecure_channel(address), grpc.secure_channel(address, trusting)):
        with channel, pytest.raises(grpc.RpcError) as refused:
            health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=20)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


def test_a_stranger_is_not_let_in(address: str, secrets: Secrets, tmp_path: Path) -> None:
    """The same command with the certificate of another authority fails."""
    stranger = trustme.CA().issue_cert("stranger")
    stranger.cert_chain_pems[0].write_to_path(tmp_path / "tls.crt")
    stranger.private_key_pem.write_to_path(tmp_path / "tls.key")
    (tmp_path / "ca.crt").write_bytes((secrets["armoire-tls"] / "ca.crt").read_bytes())
    assert probe("readiness", address, tmp_path).returncode == 1


def test_a_caller_gets_in_with_the_client_certificate(address: str, secrets: Secrets) -> None:
    """Who mounts the callers' Secret may call."""
    folder = secrets["armoire-client-tls"]
    credentials = read_credentials(folder / "ca.crt", folder / "tls.key", folder / "tls.crt")
    with Client(address, credentials=credentials) as client:
        assert len(client.sample(2, seed=1).images) == 2


def test_the_certificate_has_every_name_that_callers_use() -> None:
    """It has each Service's names and the address that probes call; keys are of a kind that gRPC takes."""
    resources = build(BUILD)
    namespace = the(resources, "Namespace")["metadata"]["name"]
    wanted = set()
    for service in of_kind(resources, "Service"):
        name = service["metadata"]["name"]
        parts = ["", f".{namespace}", f".{namespace}.svc", f".{namespace}.svc.cluster.local"]
        wanted |= {name + part for part in parts}
    served = certificate("armoire")
    assert set(served["dnsNames"]) == wanted
    assert served["ipAddresses"] == ["127.0.0.1"]
    assert {"server auth", "client auth"} <= set(served["usages"])
    for name in ("armoire", "armoire-client"):
        key = certificate(name)["privateKey"]
        assert (key["algorithm"], key["size"]) in {("ECDSA", 256), ("ECDSA", 384)}
        issuer = certificate(name)["issuerRef"]["name"]
        assert issuer in {found["metadata"]["name"] for found in of_kind(resources, "Issuer")}
