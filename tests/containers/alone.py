"""An image alone under `docker run`: with no rights, what it says, and what is in it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from tests.containers.engine import docker, until

# The options under which compose.yaml and Kubernetes run it.
HARDENED = ("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")
# Prints the sources below the folders that have no unchecked bytecode beside them (PEP 552: flags 1).
UNCOMPILED = """
import sys
from importlib.util import cache_from_source
from pathlib import Path
for source in (file for folder in sys.argv[1:] for file in Path(folder).rglob("*.py")):
    code = Path(cache_from_source(str(source)))
    if not code.exists() or code.read_bytes()[4] != 1:
        print(source)
"""
# Prints what an image of a service has no use for.
TOOLS = """
import importlib.util, shutil
print(*(name for name in ("pip", "ensurepip", "hatchling", "torch") if importlib.util.find_spec(name)),
      *(name for name in "pip pip3 gcc cc c++ clang ld make nvcc git".split() if shutil.which(name)))
"""


def ended(image: str, *arguments: str, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run an image, hardened, to its end, whatever that is."""
    command = ["docker", "run", "--rm", *HARDENED, *options, image, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=900)


@contextmanager
def serving(image: str, *arguments: str, options: tuple[str, ...] = HARDENED) -> Iterator[str]:
    """A container that serves while the block runs, hardened where nothing else is said; gives its name."""
    name = "armoire-test-alone"
    docker("run", "--detach", "--name", name, *options, image, *arguments)
    try:
        until(lambda: "; metrics on http" in logs(name), 60, "the server serves")
        yield name
    finally:
        docker("rm", "--force", "--volumes", name)


def logs(name: str) -> str:
    """What a container has said, on both streams."""
    return subprocess.run(["docker", "logs", name], capture_output=True, text=True, check=True).stderr


def python(image: str, program: str, *arguments: str) -> str:
    """Run a program in an image."""
    return docker(
        "run", "--rm", *HARDENED, "--entrypoint", "python", image, "-c", program, *arguments, seconds=600
    )


def uncompiled(image: str, *folders: str) -> str:
    """The sources of an image that each start would have to compile."""
    return python(image, UNCOMPILED, *folders)


def tools(image: str) -> str:
    """What of the tools that a service has no use for, torch among them, an image has."""
    return python(image, TOOLS)
