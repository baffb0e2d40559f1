"""What compose runs, held to the server and to what Kubernetes runs of it; no engine needed."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml

from armoire import config, spans
from tests.deploy.rendered import ROOT, build, mebibytes
from tests.deploy.rendered import container as pod
from tests.serving import serving

DOCKER = ROOT / "docker"
DEFAULTS = dict(re.findall(r"^(\w+)=(.*)$", (DOCKER / ".env").read_text(), re.MULTILINE))


def services(**variables: str) -> dict[str, dict[str, Any]]:
    """Give compose.yaml's services with the defaults of .env, or with other values."""
    values = DEFAULTS | variables
    text = re.sub(r"\$\{(\w+)\}", lambda found: values[found[1]], (DOCKER / "compose.yaml").read_text())
    found: dict[str, dict[str, Any]] = yaml.safe_load(text)["services"]
    return found


OURS = [name for name in services() if name.startswith("armoire")]


def probe(address: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the service's healthcheck as Docker would, without a shell."""
    how, program, *words = services(**variables)["armoire"]["healthcheck"]["test"]
    assert (how, program) == ("CMD", "armoire")
    command = [sys.executable, "-m", "armoire.cli", *words, "--address", address]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_health_is_asked_for_without_a_shell() -> None:
    """The healthcheck as it comes, an argument each, finds a service in plain text healthy, and nobody not."""
    with serving() as running:
        done = probe(running.address)
        assert (done.returncode, done.stdout) == (0, "SERVING\n"), done.stderr
    assert probe(running.address).returncode == 1


def test_health_is_asked_for_with_what_env_names(tmp_path: Path) -> None:
    """With files for TLS, a client's certificate and a token in .env the healthcheck passes where all are needed."""
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    files = {name: tmp_path / name for name in ("ca.pem", "cert.pem", "key.pem", "tokens", "token")}
    authority.cert_pem.write_to_path(files["ca.pem"])
    certificate.cert_chain_pems[0].write_to_path(files["cert.pem"])
    certificate.private_key_pem.write_to_path(files["key.pem"])
    files["token"].write_text("sesame\n")
    files["tokens"].write_text(f"probe {hashlib.sha256(b'sesame').hexdigest()}\n")
    tls = {"tls_cert": files["cert.pem"], "tls_key": files["key.pem"], "tls_client_ca": files["ca.pem"]}
    told = {
        "HEALTH_TLS_CA": str(files["ca.pem"]),
        "HEALTH_TLS_CERT": str(files["cert.pem"]),
        "HEALTH_TLS_KEY": str(files["key.pem"]),
        "HEALTH_TOKEN_FILE": str(files["token"]),
    }
    with serving(**tls, tokens_file=files["tokens"], health="token") as running:
        done = probe(running.address, **told)
        assert (done.returncode, done.stdout) == (0, "SERVING\n"), done.stderr
        for missing in told:
            assert probe(running.address, **told | {missing: ""}).returncode != 0, missing


def test_memory_is_told_as_it_was_measured() -> None:
    """README, .env and the manifest name the command that measures it and the same figures, which the limits hold."""
    places = (ROOT / "README.md", DOCKER / ".env", ROOT / "deploy" / "base" / "deployment.yaml")
    texts = [re.sub(r"\n[ #]*", " ", place.read_text()) for place in places]
    assert all("`python -m tests.load.memory`" in text for text in texts)
    told = {tuple(re.findall(r"([\d,]+) MiB (?:at rest|in a flood)", text)) for text in texts}
    assert told == {("103", "1,259")}
    for limit in (
        services()["armoire"]["mem_limit"].upper() + "i",
        pod(build("cpu"))["resources"]["limits"]["memory"],
    ):
        assert mebibytes(limit) >= 1259


@pytest.mark.parametrize("name", OURS)
def test_docker_waits_as_long_for_a_stop_as_kubernetes_must(name: str) -> None:
    """The time to stop covers the calls in flight and the last spans, as the pods' does."""
    drain = config.Settings().grace + spans.FLUSH_SECONDS
    assert float(services()[name]["stop_grace_period"].removesuffix("s")) >= drain


def test_the_gpu_service_has_a_gpu_and_the_image_for_it() -> None:
    """Profile gpu builds the image with CUDA, reserves NVIDIA devices, as many as .env says, and demands cuda."""
    gpu = services(GPUS="3")["armoire-gpu"]
    assert gpu["build"]["args"]["EXTRA"] == "cuda"
    assert gpu["image"].startswith(pod(build("gpu"))["image"].partition(":")[0] + ":")
    (device,) = gpu["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": "3", "capabilities": ["gpu"]}
    assert gpu["environment"]["ARMOIRE_PROVIDER"] == "cuda"


def test_a_gpu_service_may_start_as_long_as_a_pod() -> None:
    """Where CUDA's graphs are recorded both have five minutes before they count as unhealthy, and may write /tmp."""
    gpu, startup = services()["armoire-gpu"], pod(build("gpu"))["startupProbe"]
    assert gpu["healthcheck"]["start_period"] == f"{startup['periodSeconds'] * startup['failureThreshold']}s"
    assert gpu["tmpfs"] == ["/tmp"]


@pytest.mark.parametrize("traces", ["", "-traces"])
def test_images_are_built_of_locks_that_are_there(traces: str) -> None:
    """Each image is built of a lock of its own, with OpenTelemetry's packages where TRACES says so."""
    extras = {
        name: service["build"]["args"]["EXTRA"]
        for name, service in services(TRACES=traces).items()
        if "build" in service
    }
    assert {extras["armoire"], extras["armoire-gpu"], extras["load"]} == {
        f"cpu{traces}",
        f"cuda{traces}",
        "bench",
    }
    for extra in extras.values():
        text = (DOCKER / f"requirements-{extra}.txt").read_text()
        assert ("opentelemetry-sdk==" in text) == extra.endswith("-traces")
