"""Docker as the tests drive it: commands, images from nothing, and a stack of compose.yaml on ports of its own."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"
STAND_INS = Path(__file__).parent / "stand-ins"
STAND_IN = "armoire.stand-in"
SERVICE = DOCKER / "service.Dockerfile"
PORTS = [
    name
    for name in re.findall(r"^([A-Z_]+_PORT)=", (DOCKER / ".env").read_text(), re.MULTILINE)
    if not name.startswith("ARMOIRE_")
]


def docker(*arguments: str, seconds: float = 120, **variables: str) -> str:
    """Run one docker command and give what it prints; raises with its errors where it fails."""
    done = subprocess.run(
        ["docker", *arguments],
        capture_output=True,
        text=True,
        timeout=seconds,
        env=os.environ | variables,
        cwd=DOCKER,
    )
    assert done.returncode == 0, f"docker {' '.join(arguments)}: {done.stderr[-4000:]}"
    return done.stdout.strip()


def works(*arguments: str, seconds: float = 120) -> bool:
    """Whether a docker command succeeds."""
    try:
        return not subprocess.run(["docker", *arguments], capture_output=True, timeout=seconds).returncode
    except (OSError, subprocess.TimeoutExpired):
        return False


def inspect(name: str) -> dict[str, Any]:
    """Everything that Docker knows of a container or an image."""
    (found,) = json.loads(docker("inspect", name))
    return found


def until(true: Callable[[], bool], seconds: float, what: str) -> float:
    """Wait for a condition and say how long that took; an OSError (nobody there yet) is not yet true."""
    began = time.monotonic()
    while time.monotonic() < began + seconds:
        try:
            if true():
                return time.monotonic() - began
        except OSError:
            pass
        time.sleep(0.2)
    raise AssertionError(f"{what}: not within {seconds:.0f} s")


def fetch(url: str) -> str:
    """Get a page."""
    with urllib.request.urlopen(url, timeout=5) as answer:
        text: str = answer.read().decode()
        return text


def base_image() -> str | None:
    """The base to build on: BASE_IMAGE, else the pinned one, else what is here of its tag; None: there is none."""
    pinned = re.findall(r"^ARG BASE_IMAGE=(\S+)", SERVICE.read_text(), re.MULTILINE)[0]
    for name in filter(None, (os.environ.get("BASE_IMAGE"), pinned, pinned.partition("@")[0])):
        if works("image", "inspect", name) or works("pull", "--quiet", name, seconds=300):
            return name
    return None


@contextmanager
def stand_in(name: str, image: str, base: str) -> Iterator[str]:
    """An image that compose.yaml takes from a registry: the real one, else ours of its name, while the block runs."""
    here = works("image", "inspect", image)
    # One of ours that was left behind is made anew.
    ours = here and STAND_IN in (inspect(image)["Config"]["Labels"] or {})
    if not ours and (here or works("pull", "--quiet", image, seconds=300)):
        yield "real"
        return
    arguments = ["--build-arg", f"BASE_IMAGE={base}", "--build-arg", "PIP_INDEX_URL"]
    arguments += ["--label", f"{STAND_IN}={name}", "--tag", image]
    docker("build", "--file", str(STAND_INS / f"{name}.Dockerfile"), *arguments, str(STAND_INS), seconds=900)
    try:
        yield "stand-in"
    finally:
        docker("rmi", "--force", image)


def free_ports(count: int) -> list[int]:
    """So many ports of loopback on which nobody listens."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


class Stack:
    """The services of compose.yaml under a name and on ports of their own."""

    def __init__(self, name: str, base: str, **variables: str) -> None:
        ports = dict(zip(PORTS, map(str, free_ports(len(PORTS))), strict=True))
        self._variables = {"COMPOSE_PROJECT_NAME": name, "BASE_IMAGE": base, **ports, **variables}

    def compose(self, *arguments: str, seconds: float = 600, **variables: str) -> str:
        """Run one command of docker compose."""
        return docker("compose", *arguments, seconds=seconds, **self._variables | variables)

    def address(self, port: str) -> str:
        """Where a port of .env is answered on this host."""
        return f"127.0.0.1:{self._variables[port]}"

    def containers(self, service: str) -> list[str]:
        """The ids of a service's containers."""
        return self.compose("--profile", "*", "ps", "--all", "--quiet", service).split()

    def down(self) -> None:
        """Remove all of it."""
        self.compose("--profile", "*", "down", "--volumes", "--timeout", "5")
