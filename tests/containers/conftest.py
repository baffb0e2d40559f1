"""What the tests of containers share: an engine or a reason to skip, and images that were built from nothing."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.containers.engine import DOCKER, Stack, base_image, stand_in, works

VARIABLES = dict(re.findall(r"^(\w+)=(.*)$", (DOCKER / ".env").read_text(), re.MULTILINE))


@pytest.fixture(scope="session")
def base() -> str:
    """The base image; without a Docker engine, compose v2 or any base there is nothing to test."""
    if not works("info"):
        pytest.skip("no Docker engine answers (docker info)")
    if not works("compose", "version") or not works("buildx", "version"):
        pytest.skip("docker has no compose v2 or no buildx")
    found = base_image()
    if found is None:
        pytest.skip("no base image: the pinned one cannot be pulled, and nothing of its tag is here")
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
