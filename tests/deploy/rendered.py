"""What `kubectl apply -k` would send: overlays and combinations of components, built by kubectl itself."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from armoire import config

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
OVERLAYS = sorted(folder.name for folder in (DEPLOY / "overlays").iterdir())
# A job of its own, that changes nothing of the service.
ALONE = {"training-job"}
COMPONENTS = sorted(
    folder.parent.name
    for folder in (DEPLOY / "components").glob("*/kustomization.yaml")
    if folder.parent.name not in ALONE
)
# Any of them alone, and all of them in both orders: what one sets, no other may undo.
COMBINATIONS = {
    **{f"base+{name}": [name] for name in COMPONENTS},
    "base+all": COMPONENTS,
    "base+all-reversed": COMPONENTS[::-1],
}
BUILDS = [*OVERLAYS, *COMBINATIONS]
SERVICE_BUILDS = [build for build in BUILDS if build != "training"]
Resource = dict[str, Any]


@functools.cache
def kubectl() -> str:
    """Find kubectl: the one of this environment, or any other."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return shutil.which("kubectl", path=path) or pytest.skip("there is no kubectl to build the overlays with")


@functools.cache
def build(name: str) -> tuple[Resource, ...]:
    """Build an overlay, or the base with components."""
    if name in OVERLAYS:
        return _kustomize(DEPLOY / "overlays" / name)
    with tempfile.TemporaryDirectory() as folder:
        here = os.path.relpath(DEPLOY, Path(folder).resolve())
        kustomization = {
            "resources": [f"{here}/base"],
            "components": [f"{here}/components/{component}" for component in COMBINATIONS[name]],
        }
        (Path(folder) / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
        return _kustomize(Path(folder))


def _kustomize(folder: Path) -> tuple[Resource, ...]:
    done = subprocess.run([kubectl(), "kustomize", str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # What is deprecated is told there.
    assert not done.stderr, done.stderr
    return tuple(yaml.safe_load_all(done.stdout))


def of_kind(resources: tuple[Resource, ...], *kinds: str) -> list[Resource]:
    """Give the resources of some kinds."""
    return [resource for resource in resources if resource["kind"] in kinds]


def the(resources: tuple[Resource, ...], kind: str) -> Resource:
    """Give the only resource of a kind."""
    (found,) = of_kind(resources, kind)
    return found


def loose() -> Iterator[tuple[str, Resource]]:
    """Give the resources that are applied by themselves: of files that no kustomization names."""
    for path in sorted(DEPLOY.rglob("*.yaml")):
        kustomization = path.parent / "kustomization.yaml"
        if path != kustomization and path.name not in _named_by(yaml.safe_load(kustomization.read_text())):
            yield from (
                (str(path.relative_to(ROOT)), found) for found in yaml.safe_load_all(path.read_text())
            )


def _named_by(kustomization: Resource) -> set[str]:
    patches = [patch.get("path") for patch in kustomization.get("patches", [])]
    generated = [
        file for made in kustomization.get("configMapGenerator", []) for file in made.get("files", [])
    ]
    return {Path(str(name)).name for name in [*kustomization.get("resources", []), *patches, *generated]}


def pod_templates() -> Iterator[tuple[str, Resource]]:
    """Give every pod that anything makes, with its labels and spec, and where it comes from."""
    for name in BUILDS:
        for resource in of_kind(build(name), "Deployment", "Job"):
            yield f"{name}: {resource['metadata']['name']}", resource["spec"]["template"]
    yield from ((path, resource) for path, resource in loose() if resource["kind"] == "Pod")


def container(resources: tuple[Resource, ...]) -> Resource:
    """Give the server's container."""
    (found,) = the(resources, "Deployment")["spec"]["template"]["spec"]["containers"]
    return found


def cores(quantity: str) -> float:
    """Read Kubernetes' form of a number of cores."""
    return float(quantity[:-1]) / 1000 if quantity.endswith("m") else float(quantity)


def mebibytes(quantity: str) -> float:
    """Read Kubernetes' form of an amount of memory."""
    units = {"Mi": 1, "Gi": 1024}
    return float(quantity[:-2]) * units[quantity[-2:]]


def environment(resources: tuple[Resource, ...]) -> dict[str, str]:
    """Give the variables that the server would see."""
    found: dict[str, str] = {}
    for source in container(resources)["envFrom"]:
        name = source["configMapRef"]["name"]
        (settings,) = [r for r in of_kind(resources, "ConfigMap") if r["metadata"]["name"] == name]
        found |= settings["data"]
    for entry in container(resources)["env"]:
        if "value" in entry:
            found[entry["name"]] = entry["value"]
        else:
            reference = entry["valueFrom"]["resourceFieldRef"]
            kind, _, resource = reference["resource"].partition(".")
            # Kubernetes rounds up.
            amount = cores(container(resources)["resources"][kind][resource]) / cores(reference["divisor"])
            found[entry["name"]] = str(-int(-amount // 1))
    return found


def settings(resources: tuple[Resource, ...]) -> config.Settings:
    """Give the settings that the server would run with; a variable that is none is an error."""
    return config.load({}, environment(resources))
