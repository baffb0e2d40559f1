"""What the tests of containers share: an engine, or else no test passes, and images that were built from nothing."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.containers.engine import DOCKER, ROOT, Stack, base_image, docker, stand_in, works

VARIABLES = dict(re.findall(r"^(\w+)=(.*)$", (DOCKER / ".env").read_text(), re.MULTILINE))


@pytest.fixture(scope="session")
def base() -> str:
    """The base image; who asked for these tests (-m containers) is not told that all is well where they cannot run."""
    if not works("info"):
        pytest.fail("no Docker engine answers (docker info)")
    if not works("compose", "version") or not works("buildx", "version"):
        pytest.fail("docker has no compose v2 or no buildx")
    found = base_image()
    if found is None:
        pytest.fail("no base image: the pinned one cannot be pulled, and nothing of its tag is here")
    return found


@pytest.fixture(scope="session")
def images(base: str) -> dict[str, str]:
    """The service and the load test, built without a cache: name by service."""
    began = time.monotonic()
    stack = Stack("armoire-test-build", base)
    stack.compose("--profile", "load", "build", "--no-cache", "armoire", "load", seconds=1800)
    print(f"\nboth images from nothing on {base}: {time.monotonic() - began:.0f} s")
    version = VARIABLES["VERSION"]
    return {"armoire": f"armoire-service:{version}", "load": f"armoire-bench:{version}"}


@pytest.fixture(scope="session")
def cuda(base: str) -> str:
    """The service for GPUs, as profile gpu builds it; from Docker's cache where that has it: 1.6 GB to download."""
    began = time.monotonic()
    Stack("armoire-test-build", base).compose("--profile", "gpu", "build", "armoire-gpu", seconds=3000)
    print(f"\nthe image for GPUs on {base}: {time.monotonic() - began:.0f} s")
    return f"armoire-service-cuda:{VARIABLES['VERSION']}"


@pytest.fixture(scope="session")
def revision() -> str:
    """What images are told to be built of."""
    told = ["git", "rev-parse", "HEAD"]
    return subprocess.run(told, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture(scope="session")
def training(base: str, revision: str) -> str:
    """Training, from Docker's cache where that has it: PyPI's torch, 3 GB to download, or that of TORCH_INDEX_URL."""
    began = time.monotonic()
    name = f"armoire-training:{VARIABLES['VERSION']}"
    given = {"BASE_IMAGE": base, "REVISION": revision}
    given |= {key: os.environ[key] for key in ("PIP_INDEX_URL", "TORCH_INDEX_URL") if os.environ.get(key)}
    arguments = [part for key, value in given.items() for part in ("--build-arg", f"{key}={value}")]
    dockerfile = str(DOCKER / "training.Dockerfile")
    docker("build", "--file", dockerfile, *arguments, "--tag", name, str(ROOT), seconds=3000)
    print(f"\nthe image for training on {base}: {time.monotonic() - began:.0f} s")
    return name


@pytest.fixture(scope="session")
def taken(base: str) -> Iterator[None]:
    """The images that compose.yaml takes from a registry, or stand-ins for them."""
    with ExitStack() as them:
        for name in ("prometheus", "grafana", "envoy"):
            what = them.enter_context(stand_in(name, VARIABLES[f"{name.upper()}_IMAGE"], base))
            print(f"\n{name}: {what}")
        yield


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A folder that containers may write to, whatever their user."""
    folder = tmp_path / "written"
    folder.mkdir()
    folder.chmod(0o777)
    return folder


@pytest.fixture(scope="module")
def stack(request: pytest.FixtureRequest, base: str, images: dict[str, str], taken: None) -> Iterator[Stack]:
    """A stack of the module's own, empty at first."""
    stack = Stack("armoire-" + request.module.__name__.rpartition(".")[2].replace("_", "-"), base)
    try:
        yield stack
    finally:
        stack.down()
