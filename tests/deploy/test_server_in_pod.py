"""What a pod says of its server, held to the server: settings, ports, probes, shutdown, processors, memory."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from armoire import config, spans
from armoire.metrics import Metrics
from armoire.server import HEALTH_OF
from tests.deploy.rendered import (
    SERVICE_BUILDS,
    Resource,
    build,
    container,
    cores,
    environment,
    mebibytes,
    of_kind,
    pod_templates,
    settings,
    the,
)
from tests.monitoring.files import alerts
from tests.monitoring.prometheus import needs_prometheus
from tests.monitoring.promql import holds

# Beside what max_in_flight_mib counts: 747 MiB in a flood of 1,024 calls of 1 MiB, and an `armoire health`.
OVERHEAD_MIB = 808
every_build = pytest.mark.parametrize("name", SERVICE_BUILDS)
SCALED_BUILDS = [name for name in SERVICE_BUILDS if re.search("autoscaling|all|production", name)]


def port(address: str) -> int:
    return int(address.rpartition(":")[2])


def mounts(resources: tuple[Resource, ...]) -> dict[str, Resource]:
    """Give the server's mounts by their paths."""
    return {mount["mountPath"]: mount for mount in container(resources).get("volumeMounts", [])}


def patience(probe: Resource) -> float:
    """How many seconds a probe may fail before Kubernetes acts."""
    return probe["periodSeconds"] * probe["failureThreshold"]


@every_build
def test_the_server_takes_its_settings(name: str) -> None:
    """Every ARMOIRE_ variable is a setting, its value can be, and probes can ask for health without a token."""
    assert settings(build(name)).health == "open"


def test_no_pod_has_a_variable_that_nobody_reads() -> None:
    """Variables in other pods, too, are settings or those that training reads."""
    known = {config.variable(setting) for setting in config.SETTINGS}
    for where, template in pod_templates():
        for found in template["spec"]["containers"]:
            for entry in found.get("env", []):
                variable = entry["name"]
                ours = not variable.startswith(config.PREFIX) or variable in known
                assert ours or config.FOREIGN.fullmatch(variable), f"{where}: {variable}"


@every_build
def test_onnx_runtime_reports_to_nobody(name: str) -> None:
    """Telemetry, which ONNX Runtime would send by default, is off, and the network policy lets nothing out anyway."""
    resources = build(name)
    assert environment(resources)["ORT_DISABLE_TELEMETRY"] == "1"
    policy = the(resources, "NetworkPolicy")["spec"]
    assert "Egress" in policy["policyTypes"]
    assert not policy["egress"]


@every_build
def test_ports_are_those_that_the_server_listens_on(name: str) -> None:
    """Container, Services, probes and network policy name the ports of the settings, which answer from outside."""
    resources = build(name)
    served = settings(resources)
    ports = {"grpc": port(served.listen), "metrics": port(served.metrics_listen)}
    for address in (served.listen, served.metrics_listen):
        assert address.startswith("0.0.0.0:")
    assert {p["name"]: p["containerPort"] for p in container(resources)["ports"]} == ports
    headless, balanced = sorted(
        of_kind(resources, "Service"), key=lambda s: s["spec"].get("clusterIP") != "None"
    )
    assert headless["spec"]["clusterIP"] == "None"
    assert balanced["spec"].get("clusterIP") is None
    for service in (headless, balanced):
        assert [p["port"] for p in service["spec"]["ports"]] == [ports["grpc"]]
    by_port = {
        found["port"]: rule["from"]
        for rule in the(resources, "NetworkPolicy")["spec"]["ingress"]
        for found in rule["ports"]
    }
    assert set(by_port) == set(ports)
    # Of two selectors in one entry both have to fit; in two entries, either.
    (callers,) = by_port["grpc"]
    assert callers["podSelector"]["matchLabels"]
    allowed = callers["namespaceSelector"]["matchLabels"]
    assert allowed.items() <= the(resources, "Namespace")["metadata"]["labels"].items()


@every_build
def test_probes_ask_what_the_server_answers(name: str) -> None:
    """Native probes ask the gRPC port for a health that the server knows; with TLS, where they cannot, none does."""
    resources = build(name)
    served = settings(resources)
    pod = container(resources)
    probes = [pod[f"{kind}Probe"] for kind in ("startup", "readiness", "liveness")]
    for probe in probes:
        if served.tls_cert is None:
            assert probe["grpc"]["port"] == port(served.listen)
            assert probe["grpc"].get("service", "") in HEALTH_OF
        else:
            assert "grpc" not in probe
            assert f"--address=127.0.0.1:{port(served.listen)}" in probe["exec"]["command"]
        assert probe["timeoutSeconds"] < probe["periodSeconds"] or probe["failureThreshold"] > 2


@every_build
def test_a_restart_is_the_last_resort(name: str) -> None:
    """Calls go elsewhere long before a restart, which leaves a model or batch at fault the time to be well again."""
    resources = build(name)
    served = settings(resources)
    pod = container(resources)
    startup, readiness, liveness = (pod[f"{kind}Probe"] for kind in ("startup", "readiness", "liveness"))
    assert patience(readiness) <= 30
    assert patience(liveness) > 2 * (served.canary_seconds + served.stuck_seconds)
    assert patience(startup) >= (300 if served.provider == "cuda" else 60)


@every_build
def test_nobody_is_paged_for_a_start(name: str) -> None:
    """As long as a pod may start, and until it is seen to serve, no alert fires for a pod that does not serve."""
    seen = 2 * 15  # a scrape and an evaluation
    for alert in ("ArmoireNoReadyModel", "ArmoireNotServing"):
        minutes = int(alerts()[alert]["for"].removesuffix("m"))
        assert 60 * minutes >= patience(container(build(name))["startupProbe"]) + seen


@every_build
def test_a_pod_may_drain_as_long_as_its_server_does(name: str) -> None:
    """The time to end covers the wait before SIGTERM, the calls in flight and the last spans."""
    resources = build(name)
    pod = the(resources, "Deployment")["spec"]["template"]["spec"]
    before = container(resources)["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert before >= 5
    drain = settings(resources).grace + spans.FLUSH_SECONDS
    assert pod["terminationGracePeriodSeconds"] >= before + drain


@every_build
def test_a_lane_has_a_core(name: str) -> None:
    """There are as many lanes as requested cores, and no quota below that stops them in the middle of a batch."""
    resources = build(name)
    asked = container(resources)["resources"]
    threads = settings(resources).threads
    assert threads == math.ceil(cores(asked["requests"]["cpu"])) > 0
    assert cores(asked["limits"].get("cpu", asked["requests"]["cpu"])) >= threads


@every_build
def test_memory_holds_what_the_server_lets_in(name: str) -> None:
    """The limit covers all that may be in flight and what was measured beside it, and is reserved."""
    asked = container(build(name))["resources"]
    limit = mebibytes(asked["limits"]["memory"])
    assert limit >= settings(build(name)).max_in_flight_mib + OVERHEAD_MIB
    assert mebibytes(asked["requests"]["memory"]) == limit


@pytest.mark.parametrize("name", [name for name in SERVICE_BUILDS if "gpu" in name or "all" in name])
def test_a_gpu_pod_has_one_gpu_and_the_image_for_it(name: str) -> None:
    """One GPU, the CUDA image, cuda as a demand, and a way onto nodes that are kept for GPUs."""
    resources = build(name)
    pod = the(resources, "Deployment")["spec"]["template"]["spec"]
    assert container(resources)["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert container(resources)["image"].startswith("armoire-service-cuda:")
    assert settings(resources).provider == "cuda"
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in pod["tolerations"]
    assert "/tmp" in mounts(resources)


@pytest.mark.parametrize(
    "name", [name for name in SERVICE_BUILDS if re.search("models|all|production", name)]
)
def test_models_are_where_the_server_looks(name: str) -> None:
    """The volume of models is mounted, to be read, at the folder that the server's settings name."""
    resources = build(name)
    mount = mounts(resources)[str(settings(resources).models)]
    assert mount["readOnly"] is True
    volumes = the(resources, "Deployment")["spec"]["template"]["spec"]["volumes"]
    (volume,) = [each for each in volumes if each["name"] == mount["name"]]
    assert volume["persistentVolumeClaim"]["claimName"] == "armoire-models"


@pytest.mark.parametrize("name", SCALED_BUILDS)
def test_the_autoscaler_asks_for_metrics_that_there_are(name: str) -> None:
    """Its queries name metrics and labels of the server in its namespace, and nothing else sets the number of pods."""
    resources = build(name)
    scaler = the(resources, "ScaledObject")
    deployment = the(resources, "Deployment")
    assert scaler["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert "replicas" not in deployment["spec"]
    bounds = scaler["spec"]
    # One to spare of which the disruption budget may take one.
    assert 2 <= bounds["minReplicaCount"] <= bounds["fallback"]["replicas"] <= bounds["maxReplicaCount"]
    registry = Metrics().registry
    known = set(registry._names_to_collectors)
    asked = set()
    for trigger in bounds["triggers"]:
        query = trigger["metadata"]["query"]
        metrics = re.findall(r"armoire_\w+", query)
        assert metrics
        assert set(metrics) <= known, query
        namespace = the(resources, "Namespace")["metadata"]["name"]
        assert query.count(f'{{namespace="{namespace}"}}') == len(metrics)
        assert float(trigger["metadata"]["threshold"]) > 0
        # An answer without data is no word of an idle service: then the number of pods stays.
        assert trigger["metadata"]["ignoreNullValues"] == "false"
        asked |= set(metrics)
    assert {"armoire_pending_rows", "armoire_queue_duration_seconds_sum"} <= asked
    # As the manifest says why: a wait has half of the goal.
    wait = float(bounds["triggers"][1]["metadata"]["threshold"])
    assert wait <= settings(resources).latency_goal_ms / 1e3 / 2


@needs_prometheus
@pytest.mark.parametrize("lanes", [1, 2])
@pytest.mark.parametrize("name", SCALED_BUILDS)
def test_half_a_batch_a_lane_is_as_much_as_the_pods_should_have(
    name: str, lanes: int, tmp_path: Path
) -> None:
    """Three pods with half a batch for each lane are three pods' worth to the autoscaler, on GPUs as on CPUs."""
    trigger = the(build(name), "ScaledObject")["spec"]["triggers"][0]
    assert trigger["metricType"] == "AverageValue"
    series = {}
    for pod in ("a", "b", "c"):
        labels = f'namespace="armoire", job="armoire", instance="{pod}:9464"'
        of_graph = f'{labels}, model="fashion-mnist", graph="decoder"'
        series[f"armoire_lanes{{{labels}}}"] = f"{lanes}x20"
        series[f"armoire_largest_batch_rows{{{of_graph}}}"] = "64x20"
        series[f"armoire_pending_rows{{{of_graph}}}"] = f"{32 * lanes}x20"
    holds(tmp_path, trigger["metadata"]["query"], series, 3 * float(trigger["metadata"]["threshold"]))
