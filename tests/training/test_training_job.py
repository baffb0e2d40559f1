"""The Kubernetes job of training, its script run here as its pods would run it."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.training.conftest import SLICE
from tests.training.processes import ROOT, checkpoint_of

MANIFEST = ROOT / "deploy" / "components" / "training-job" / "training-job.yaml"
PORT = "29500"


@pytest.fixture(scope="module")
def job() -> dict[str, Any]:
    _, job = yaml.safe_load_all(MANIFEST.read_text())
    return job


def container(job: dict[str, Any]) -> dict[str, Any]:
    return job["spec"]["template"]["spec"]["containers"][0]


def test_the_job_starts_as_many_pods_as_torchrun_waits_for(job: dict[str, Any]) -> None:
    """Completions, parallelism and NODES are one number, and the first pod's name is where they meet."""
    service, _ = yaml.safe_load_all(MANIFEST.read_text())
    variables = {entry["name"]: entry["value"] for entry in container(job)["env"]}
    spec = job["spec"]
    assert spec["completions"] == spec["parallelism"] == int(variables["NODES"])
    assert spec["completionMode"] == "Indexed"
    name = service["metadata"]["name"]
    assert variables["MASTER"] == f"{job['metadata']['name']}-0.{name}"
    assert spec["template"]["spec"]["subdomain"] == name
    assert service["spec"]["selector"].items() <= spec["template"]["metadata"]["labels"].items()


def run(job: dict[str, Any], runs: Path, port: int) -> list["subprocess.Popen[str]"]:
    """Start the container's script once for each pod, on this machine, with the slice of Fashion-MNIST."""
    (script,) = container(job)["args"]
    variables = {entry["name"]: entry["value"] for entry in container(job)["env"]} | {
        "PRESET": "fashion-2d",
        "PROCESSES_PER_NODE": "1",
        "MASTER": "127.0.0.1",
        "DATA": str(SLICE),
        "RUNS": str(runs),
        "HOME": os.environ["HOME"],
        "OMP_NUM_THREADS": "1",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    script = script.replace(PORT, str(port)).replace("$resume", "$resume --epochs 1")
    return [
        subprocess.Popen(
            [*container(job)["command"], script],
            cwd=ROOT,
            env=os.environ | variables | {"JOB_COMPLETION_INDEX": str(index)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return found.getsockname()[1]


def test_two_pods_train_together_and_go_on_when_started_again(job: dict[str, Any], tmp_path: Path) -> None:
    """Two pods leave one finished checkpoint; started once more they see that there is nothing left to do."""
    for told in ("epoch 1 of 1", "all 1 epochs are done"):
        outputs = []
        for pod in run(job, tmp_path, free_port()):
            output, error = pod.communicate()
            assert pod.returncode == 0, error
            outputs.append(output + error)
        # The first pod alone speaks and writes.
        assert told in outputs[0]
        assert told not in outputs[1]
    state = checkpoint_of(tmp_path)
    assert state["step"] == 12
