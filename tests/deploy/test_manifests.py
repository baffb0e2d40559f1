"""Manifests as Kubernetes would take them: valid, restricted, and of one piece."""

from __future__ import annotations

import functools
import json
import re
import tomllib
from typing import Any

import kubernetes_validate
import pytest

from tests.deploy.rendered import (
    BUILDS,
    DEPLOY,
    ROOT,
    SERVICE_BUILDS,
    Resource,
    build,
    loose,
    of_kind,
    pod_templates,
    the,
)

VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
# The oldest that knows all that is used (preStop's sleep), and the newest that there are schemas of.
KUBERNETES = ("1.30", "1.37")
# Of these no schemas are at hand.
CUSTOM = {
    ("keda.sh/v1alpha1", "ScaledObject"),
    ("cert-manager.io/v1", "Issuer"),
    ("cert-manager.io/v1", "Certificate"),
    ("monitoring.coreos.com/v1", "PodMonitor"),
    ("monitoring.coreos.com/v1", "PrometheusRule"),
}
IMAGES = {"armoire-service", "armoire-service-cuda", "armoire-training"}
# Made by whoever runs the training: see the manifest.
BROUGHT_CLAIMS = {"armoire-data", "armoire-runs"}
CLUSTER_WIDE = {"Namespace"}


@functools.cache
def _validate(resource: str, version: str) -> None:
    """Builds have most of their resources in common, and each takes its time."""
    kubernetes_validate.validate(json.loads(resource), version, strict=True)


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("name", BUILDS)
def test_kubernetes_would_take_it(name: str, version: str) -> None:
    """Every resource fits its schema, and no field is one that Kubernetes does not know."""
    for resource in build(name):
        if (resource["apiVersion"], resource["kind"]) not in CUSTOM:
            _validate(json.dumps(resource), version)


@pytest.mark.parametrize("version", KUBERNETES)
def test_kubernetes_would_take_what_is_applied_by_itself(version: str) -> None:
    """So does every resource in a file that no kustomization names."""
    for _, resource in loose():
        kubernetes_validate.validate(resource, version, strict=True)


@pytest.mark.parametrize("name", BUILDS)
def test_everything_is_in_the_namespace_once(name: str) -> None:
    """All are in the one namespace that comes with them and takes restricted pods only, each under its own name."""
    resources = build(name)
    namespace = the(resources, "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for resource in resources:
        if resource["kind"] not in CLUSTER_WIDE:
            assert resource["metadata"]["namespace"] == namespace["metadata"]["name"], resource
    names = [(resource["kind"], resource["metadata"]["name"]) for resource in resources]
    assert len(names) == len(set(names))


def _restricted(pod: Resource) -> list[str]:
    """Tell what of a pod's spec the restricted Pod Security Standard forbids."""
    faults = [f"{flag} is on" for flag in ("hostNetwork", "hostPID", "hostIPC") if pod.get(flag)]
    volumes = {kind for volume in pod.get("volumes", []) for kind in volume if kind != "name"}
    allowed = {
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
    }
    faults += [f"a volume is a {kind}" for kind in volumes - allowed - {"secret"}]
    of_pod = pod.get("securityContext", {})
    if of_pod.get("sysctls"):
        faults.append("sysctls are set")
    for container in [*pod["containers"], *pod.get("initContainers", [])]:
        own = container.get("securityContext", {})
        both: dict[str, Any] = of_pod | own
        capabilities = own.get("capabilities", {})
        holds = {
            "runs as root": both.get("runAsNonRoot") is True and both.get("runAsUser", 0) > 0,
            "no seccomp": both.get("seccompProfile", {}).get("type") in ("RuntimeDefault", "Localhost"),
            "may gain privileges": own.get("allowPrivilegeEscalation") is False,
            "is privileged": not own.get("privileged"),
            "keeps capabilities": capabilities.get("drop") == ["ALL"] and not capabilities.get("add"),
            "procMount": "procMount" not in own,
            "has a host's port": not any(port.get("hostPort") for port in container.get("ports", [])),
            # Not of the standard, but of ours.
            "writes to its image": own.get("readOnlyRootFilesystem") is True,
        }
        faults += [f"{container['name']}: {fault}" for fault, held in holds.items() if not held]
    return faults


def test_every_pod_is_restricted() -> None:
    """No pod asks for more than the restricted standard gives, none can write to its image or talk to Kubernetes."""
    pods = dict(pod_templates())
    assert len(pods) > len(BUILDS)
    for where, template in pods.items():
        assert not _restricted(template["spec"]), where
        assert template["spec"]["automountServiceAccountToken"] is False, where
        assert template["spec"]["enableServiceLinks"] is False, where


def test_images_are_ours_in_the_version_that_this_is() -> None:
    """Each image is one of the three that are built here, in the project's version, and names no registry."""
    found = set()
    for where, template in pod_templates():
        for container in template["spec"]["containers"]:
            name, _, tag = container["image"].partition(":")
            assert (name in IMAGES, tag) == (True, VERSION), f"{where}: {container['image']}"
            found.add(name)
    assert found == IMAGES


def _selects(selector: dict[str, str], resources: tuple[Resource, ...]) -> bool:
    templates = [r["spec"]["template"] for r in of_kind(resources, "Deployment", "Job")]
    return any(selector.items() <= template["metadata"]["labels"].items() for template in templates)


@pytest.mark.parametrize("name", BUILDS)
def test_selectors_meet_pods(name: str) -> None:
    """Services, the disruption budget, network policies, monitors and the Deployment select pods that there are."""
    resources = build(name)
    for resource in of_kind(resources, "Service"):
        assert _selects(resource["spec"]["selector"], resources), resource
    for resource in of_kind(resources, "PodDisruptionBudget", "Deployment", "PodMonitor"):
        assert _selects(resource["spec"]["selector"]["matchLabels"], resources), resource
    for resource in of_kind(resources, "NetworkPolicy"):
        assert _selects(resource["spec"]["podSelector"]["matchLabels"], resources), resource
    for resource in of_kind(resources, "Deployment", "Job"):
        own = resource["spec"]["template"]["metadata"]["labels"]
        spreads = resource["spec"]["template"]["spec"]["topologySpreadConstraints"]
        for spread in spreads:
            assert spread["labelSelector"]["matchLabels"].items() <= own.items()
            assert spread["maxSkew"] == 1
        if resource["kind"] == "Deployment":
            assert {s["topologyKey"] for s in spreads} == {
                "kubernetes.io/hostname",
                "topology.kubernetes.io/zone",
            }


@pytest.mark.parametrize("name", SERVICE_BUILDS)
def test_a_node_is_drained_one_pod_at_a_time(name: str) -> None:
    """A disruption budget lets one of the server's pods go at a time, and hinders no drain for a pod that is unwell."""
    resources = build(name)
    budget = the(resources, "PodDisruptionBudget")["spec"]
    assert budget["selector"] == the(resources, "Deployment")["spec"]["selector"]
    assert budget["maxUnavailable"] == 1
    assert budget["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


@pytest.mark.parametrize("name", SERVICE_BUILDS)
def test_the_server_has_an_account_of_its_own(name: str) -> None:
    """The server's pods run as an account that is nobody else's and that gives no token for Kubernetes."""
    resources = build(name)
    account = the(resources, "ServiceAccount")
    pod = the(resources, "Deployment")["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == account["metadata"]["name"] != "default"
    assert account["automountServiceAccountToken"] is False


@pytest.mark.parametrize("name", BUILDS)
def test_what_pods_refer_to_is_there(name: str) -> None:
    """Accounts, claims, secrets and named ports that are referred to exist."""
    resources = build(name)
    accounts = {r["metadata"]["name"] for r in of_kind(resources, "ServiceAccount")} | {None}
    claims = {r["metadata"]["name"] for r in of_kind(resources, "PersistentVolumeClaim")} | BROUGHT_CLAIMS
    secrets = {r["spec"]["secretName"] for r in of_kind(resources, "Certificate")}
    ports = set()
    for resource in of_kind(resources, "Deployment", "Job"):
        pod = resource["spec"]["template"]["spec"]
        assert pod.get("serviceAccountName") in accounts
        volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
        for volume in volumes.values():
            assert volume.get("persistentVolumeClaim", {}).get("claimName") in claims | {None}
            assert volume.get("secret", {}).get("secretName") in secrets | {None}
        for container in pod["containers"]:
            assert {mount["name"] for mount in container.get("volumeMounts", [])} == set(volumes)
            ports |= {port["name"] for port in container["ports"]}
    for service in of_kind(resources, "Service"):
        assert {port.get("targetPort", port["name"]) for port in service["spec"]["ports"]} <= ports
    for policy in of_kind(resources, "NetworkPolicy"):
        for rule in policy["spec"]["ingress"]:
            assert {port["port"] for port in rule.get("ports", [])} <= ports


def test_the_readme_names_what_is_there() -> None:
    """The page is short, and each path that it or a manifest names exists; each overlay and component is told."""
    page = (DEPLOY / "README.md").read_text()
    assert len(page.splitlines()) <= 40
    told = set()
    for path in [*DEPLOY.rglob("*.yaml"), DEPLOY / "README.md"]:
        for place in re.findall(r"deploy/[\w./-]*\w", path.read_text()):
            assert (ROOT / place).exists(), f"{path}: {place}"
            if path.suffix == ".md":
                told.add(place)
    for folder in (DEPLOY / "overlays").iterdir():
        assert f"deploy/overlays/{folder.name}" in told
    for folder in (DEPLOY / "components").iterdir():
        assert f"`{folder.name}`" in page
