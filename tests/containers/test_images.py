"""What is in an image, and how it behaves alone under `docker run`."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

from tests.containers.alone import logs, python, serving, tools, uncompiled
from tests.containers.engine import ROOT, docker, inspect

pytestmark = pytest.mark.containers
MOST_ADDED_BYTES = 200_000_000
# Prints name and hash of each file of the package.
PACKED = """
import armoire
from hashlib import sha256
from pathlib import Path
home = Path(*armoire.__path__)
for file in home.rglob("*"):
    if file.is_file() and file.suffix != ".pyc":
        print(file.relative_to(home), sha256(file.read_bytes()).hexdigest())
"""


# Prints name and version of what is installed, and then of what is listed.
LISTED = """
import json, sys
from importlib.metadata import distributions
for each in distributions(path=[f"{sys.prefix}/lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"]):
    print("installed", each.name, each.version)
bom = json.load(open(f"{sys.prefix}/share/armoire.cdx.json"))
for each in [bom["metadata"]["component"], *bom["components"]]:
    print(each["type"], each["name"], each["version"])
"""


@pytest.fixture
def running(images: dict[str, str]) -> Iterator[str]:
    """A container of the service that serves, hardened."""
    with serving(images["armoire"]) as name:
        yield name


def test_the_service_adds_at_most_200_mb(images: dict[str, str], base: str) -> None:
    """The CPU image, bundled models included, is at most 200 MB larger than its base."""
    whole, under = inspect(images["armoire"])["Size"], inspect(base)["Size"]
    print(f"base {under / 1e6:.0f} MB, service {whole / 1e6:.0f} MB, added {(whole - under) / 1e6:.0f} MB")
    assert whole - under <= MOST_ADDED_BYTES


def test_an_image_says_what_it_is(images: dict[str, str], base: str) -> None:
    """Numeric user that is not root, no shell around the program, a health check, OCI labels with base and version."""
    config = inspect(images["armoire"])["Config"]
    assert config["User"] == "65532:65532"
    assert config["Entrypoint"] == ["armoire"]
    assert config["Cmd"] == ["serve"]
    assert config["Healthcheck"]["Test"][:3] == ["CMD", "armoire", "health"]
    labels = {name.removeprefix("org.opencontainers.image."): text for name, text in config["Labels"].items()}
    assert labels["version"] == images["armoire"].partition(":")[2]
    assert labels["base.name"] == base
    assert labels["licenses"] == "MIT"
    assert labels["title"] == "armoire"


@pytest.mark.parametrize("name", ["armoire", "load"])
def test_no_build_tools_and_nothing_to_compile(images: dict[str, str], name: str) -> None:
    """Neither pip nor a compiler is in an image, and every module in it has its bytecode, which no start checks."""
    assert tools(images[name]) == ""
    assert uncompiled(images[name], "/opt/armoire/lib") == ""


def test_the_package_is_the_repository(images: dict[str, str]) -> None:
    """The package in the image is what git has of service/armoire, byte for byte, and nothing else."""
    names = subprocess.run(
        ["git", "ls-files", "-z", "service/armoire"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\0")[:-1]
    ours = {
        name.removeprefix("service/armoire/"): sha256((ROOT / name).read_bytes()).hexdigest()
        for name in names
    }
    packed = dict(line.rsplit(" ", 1) for line in python(images["armoire"], PACKED).splitlines())
    assert packed == ours


@pytest.mark.parametrize("name", ["armoire", "load"])
def test_an_image_lists_what_it_is_made_of(images: dict[str, str], name: str) -> None:
    """Its list in CycloneDX, made as it was built, has each package that is installed and each bundled model."""
    lines = [line.split() for line in python(images[name], LISTED).splitlines()]
    installed = {(canonicalize_name(what), version) for kind, what, version in lines if kind == "installed"}
    listed = {(canonicalize_name(what), version) for kind, what, version in lines if kind != "installed"}
    models = {(what, version) for kind, what, version in lines if kind == "machine-learning-model"}
    assert models == {("fashion-mnist", "1"), ("fashion-mnist-2d", "1")}
    assert len(installed) > 5
    assert listed == installed | models


def test_it_runs_with_no_rights_and_nothing_to_write_to(running: str) -> None:
    """Read-only, without capabilities and as user 65532 it serves, tells its health, and warns of nothing."""
    assert docker("exec", running, "armoire", "health") == "SERVING"
    status = docker("exec", running, "python", "-c", "print(open('/proc/1/status').read())")
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert fields["Uid"].split() == ["65532"] * 4
    assert int(fields["CapEff"], 16) == int(fields["CapBnd"], 16) == 0
    assert fields["NoNewPrivs"] == "1"
    assert not [line for line in logs(running).splitlines() if "INFO" not in line]


def test_a_writable_container_is_not_written_to(images: dict[str, str]) -> None:
    """Where it could write it does not: after a start nothing in its file system differs from the image."""
    with serving(images["armoire"], options=()) as name:
        assert docker("diff", name) == ""


def test_process_1_stops_when_it_is_told(running: str) -> None:
    """`docker stop` ends the server, process 1 without any init, by its own drain: status 0, long before SIGKILL."""
    began = time.monotonic()
    docker("stop", "--time", "30", running)
    print(f"docker stop: {time.monotonic() - began:.1f} s")
    assert time.monotonic() - began < 10
    assert inspect(running)["State"]["ExitCode"] == 0
    assert logs(running).rstrip().endswith("stopped")


def test_pictures_of_both_kinds_pass(running: str, tmp_path: Path) -> None:
    """What was left out of Pillow is not missed: PNG is written and read, and JPEG read."""
    program = """
import io
from PIL import Image
from armoire.client import Client
with Client("127.0.0.1:50051") as client:
    pixels = client.sample(2, seed=7).images
    for kind in ("PNG", "JPEG"):
        file = io.BytesIO()
        Image.fromarray(pixels[0, :, :, 0]).save(file, kind)
        print(client.encode([file.getvalue()]).means.shape)
"""
    assert docker("exec", running, "python", "-c", program).split("\n") == ["(1, 16)"] * 2
