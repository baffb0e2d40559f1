"""What docker/ says, held to the code and to itself: no engine needed."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from armoire import config
from tests.containers.engine import DOCKER, ROOT, STAND_INS, works

DOCKERFILES = sorted(DOCKER.glob("*.Dockerfile"))
VARIABLES = dict(re.findall(r"^(\w+)=(.*)$", (DOCKER / ".env").read_text(), re.MULTILINE))
TEXT = (DOCKER / "compose.yaml").read_text()
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(
    re.sub(r"\$\{(\w+)\}", lambda found: VARIABLES[found[1]], TEXT)
)["services"]
OURS = [name for name in SERVICES if name.startswith("armoire")]
# Where a container listens is the image's matter.
IMAGES = {"listen", "metrics_listen"}


def instructions(dockerfile: Path, instruction: str) -> list[str]:
    """What stands behind each such instruction, continued lines joined."""
    text = dockerfile.read_text().replace("\\\n", " ")
    return re.findall(rf"^{instruction} +(.*)$", text, re.MULTILINE)


def environment(dockerfile: Path) -> dict[str, str]:
    """The variables that an image sets."""
    return dict(re.findall(r"(\w+)=(\S+)", " ".join(instructions(dockerfile, "ENV"))))


@pytest.mark.parametrize(
    "dockerfile", [*DOCKERFILES, *STAND_INS.glob("*.Dockerfile")], ids=lambda it: it.name
)
def test_hadolint_finds_nothing(dockerfile: Path) -> None:
    """Every Dockerfile passes hadolint, style included."""
    program = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if program is None:
        pytest.skip("hadolint is not installed (make install)")
    done = subprocess.run([program, "--no-color", dockerfile], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_every_setting_is_in_env_with_its_default() -> None:
    """.env has each setting of the server but where to listen, with the default of config.py, and no other."""
    told = {name: text for name, text in VARIABLES.items() if name.startswith(config.PREFIX)}
    defaults = {
        config.variable(name): ""
        if setting.default in (None, "", config.BUNDLED_MODELS)
        else str(setting.default)
        for name, setting in config.SETTINGS.items()
        if name not in IMAGES
    }
    assert told == defaults
    assert config.load({}, told) == config.Settings()


def test_the_image_listens_where_it_is_published() -> None:
    """Inside a container both ports are open to its network, on the numbers of config.py's defaults."""
    opened = environment(DOCKER / "service.Dockerfile")
    for name in IMAGES:
        port = config.SETTINGS[name].default.rpartition(":")[2]
        assert opened[config.variable(name)] == f"0.0.0.0:{port}"
        assert port in " ".join(instructions(DOCKER / "service.Dockerfile", "EXPOSE")).split()
        assert [each for each in SERVICES["armoire"]["ports"] if each.endswith(f":{port}")]


@pytest.mark.parametrize("name", OURS)
def test_every_setting_reaches_the_service(name: str) -> None:
    """Each setting of .env is handed on, and of the shell nothing but OpenTelemetry's, so none is taken for one."""
    handed_on = {key for key in SERVICES[name]["environment"] if not key.startswith("OTEL_")}
    assert handed_on == {key for key in VARIABLES if key.startswith(config.PREFIX)}


def test_env_has_what_compose_asks_for() -> None:
    """Each variable of compose.yaml has its default in .env, but for some of the shell, and .env has no other."""
    # Without a value of their own they are taken as they are: of the shell, else of .env.
    taken = set(re.findall(r"^ +([A-Z_]+):$", TEXT, re.MULTILINE))
    of_the_shell = {"BASE_IMAGE", "PIP_INDEX_URL"} | {name for name in taken if name.startswith("OTEL_")}
    asked_for = set(re.findall(r"\$\{(\w+)\}", TEXT)) | taken - of_the_shell
    assert asked_for == set(VARIABLES)


def test_the_grace_of_docker_is_longer_than_the_drain() -> None:
    """Docker waits longer for a stop than the server drains, or else calls would be cut off."""
    for name in OURS:
        assert float(SERVICES[name]["stop_grace_period"].removesuffix("s")) > config.Settings().grace


def test_one_version() -> None:
    """Images carry the version of pyproject.toml, whoever builds them."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert VARIABLES["VERSION"] == version
    for dockerfile in DOCKERFILES:
        assert f"VERSION={version}" in instructions(dockerfile, "ARG"), dockerfile


def test_one_base_pinned_by_its_digest() -> None:
    """All images are built on one base, told by tag and digest."""
    bases = {
        line for file in DOCKERFILES for line in instructions(file, "ARG") if line.startswith("BASE_IMAGE=")
    }
    assert len(bases) == 1
    assert re.fullmatch(r"BASE_IMAGE=python:3\.\d+-slim@sha256:[0-9a-f]{64}", *bases)
    for file in DOCKERFILES:
        stages = {line.split()[-1] for line in instructions(file, "FROM") if " AS " in line}
        froms = {line.split()[0] for line in instructions(file, "FROM")}
        assert froms <= {"${BASE_IMAGE}", *stages}, file


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda it: it.name)
def test_an_image_has_a_numeric_user_and_no_shell(dockerfile: Path) -> None:
    """The last user is a number other than 0, and what runs is started without a shell."""
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", instructions(dockerfile, "USER")[-1])
    (entry,), (command,) = instructions(dockerfile, "ENTRYPOINT"), instructions(dockerfile, "CMD")
    assert entry.startswith("[")
    assert command.startswith("[")
    assert all("CMD [" in check for check in instructions(dockerfile, "HEALTHCHECK"))
    # Of what is installed by name, versions and hashes are the lock's; training's are pyproject.toml's.
    if dockerfile.name == "service.Dockerfile":
        installs = re.findall(r"\bpip .*?\binstall .*?(?=&&|$)", " ".join(instructions(dockerfile, "RUN")))
        assert installs
        assert all(
            "--require-hashes --only-binary :all:" in each or "--no-index" in each for each in installs
        )


@pytest.mark.parametrize("name", SERVICES)
def test_no_container_has_more_than_it_needs(name: str) -> None:
    """Each one's root is read-only; it has no capability, gains none, and has bounds for memory and processes."""
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["mem_limit"]
    assert service["pids_limit"]
    assert "privileged" not in service
    assert "cap_add" not in service


@pytest.mark.parametrize("name", SERVICES)
def test_ports_are_on_loopback_and_images_have_a_version(name: str) -> None:
    """As it comes nothing is published but on 127.0.0.1, and nothing is taken by a tag that moves."""
    ports = SERVICES[name].get("ports", [])
    assert all(port.startswith("127.0.0.1:") for port in ports)
    assert re.search(r":v?\d+\.\d+\.\d+$", SERVICES[name]["image"])


def test_what_is_mounted_is_there() -> None:
    """Each file and folder of docker/ that a container mounts is in the repository, read-only; the rest are volumes."""
    volumes = set(yaml.safe_load(TEXT)["volumes"])
    for service in SERVICES.values():
        for source, *_, flags in (mount.split(":") for mount in service.get("volumes", [])):
            if source.startswith("."):
                assert (DOCKER / source).exists(), source
                assert flags == "ro", source
            else:
                assert source in volumes


def test_compose_takes_it() -> None:
    """Docker compose holds the file, all profiles, to its specification."""
    if not works("compose", "version"):
        pytest.skip("docker compose is not installed")
    done = subprocess.run(
        ["docker", "compose", "--profile", "*", "config", "--quiet"],
        cwd=DOCKER,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
