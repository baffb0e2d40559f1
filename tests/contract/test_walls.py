"""Walls that import-linter cannot see."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PYTHON = [*ROOT.glob("service/**/*.py"), *ROOT.glob("training/**/*.py"), *ROOT.glob("tests/**/*.py")]


def test_nothing_shadows_other_peoples_packages() -> None:
    """proto/ and docker/ hold no __init__.py, so that `import docker` is never ours."""
    assert not [*ROOT.glob("proto/**/__init__.py"), *ROOT.glob("docker/**/__init__.py")]


@pytest.mark.parametrize("vague", ["utils", "common", "helpers", "base", "misc"])
def test_no_module_has_a_name_that_says_nothing(vague: str) -> None:
    """Every file has one noun of its own."""
    assert not [path for path in PYTHON if path.stem == vague]


def test_the_runtime_is_at_least_the_generator() -> None:
    """Grpcio's lower bound equals the version of the generator that wrote the stubs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (bound,) = (d for d in project["project"]["dependencies"] if d.startswith("grpcio>="))
    (generator,) = (d for d in project["dependency-groups"]["dev"] if "grpcio-tools" in d)
    written = re.search(
        r"GRPC_GENERATED_VERSION = '(.*)'", (ROOT / "service/armoire/v1/armoire_pb2_grpc.py").read_text()
    )
    assert bound.partition(">=")[2] == generator.partition("==")[2] == written[1]


def test_every_test_states_its_truth() -> None:
    """Each test function has a docstring that is one sentence: no full stop before the last character."""
    one_sentence = re.compile(r"(?:(?![.!?]\s+[A-Z\W]).)+[.]", re.DOTALL)
    functions = (
        (path.name, node)
        for path in ROOT.glob("tests/**/test_*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    )
    assert not [
        f"{file}::{node.name}"
        for file, node in functions
        if not one_sentence.fullmatch(ast.get_docstring(node) or "")
    ]


def test_only_the_server_extras_bring_a_runtime() -> None:
    """A caller's installation has no ONNX Runtime, and each extra brings everything else that the server needs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert not [d for d in project["dependencies"] if "onnx" in d or "prometheus" in d or "torch" in d]
    cpu, cuda = (
        {d for d in project["optional-dependencies"][extra] if not d.startswith("onnxruntime")}
        for extra in ("cpu", "cuda")
    )
    assert cpu == cuda
