"""Further bundles for tests, made of the bundled one."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper

from tests.serving import FASHION


def copy(models: Path, version: str, name: str = "fashion-mnist") -> Path:
    """Put the bundled model into ``models`` under another name and version, whole at once, as ``mv`` would."""
    beside = models.parent / f"beside-{models.name}-{name}-{version}"
    shutil.copytree(FASHION, beside)
    _rewrite(beside, name, version)
    return _move(beside, models / name / version)


def negative(models: Path, version: str, name: str = "fashion-mnist") -> Path:
    """Put a model there whose images are the negatives of the bundled one's; golden outputs and hashes are right."""
    beside = models.parent / f"beside-{models.name}-{name}-{version}"
    shutil.copytree(FASHION, beside)
    decoder = onnx.load(beside / "decoder.onnx")
    at, sigmoid = next(each for each in enumerate(decoder.graph.node) if each[1].op_type == "Sigmoid")
    # The sigmoid of -x is one minus that of x.
    decoder.graph.node.insert(at, helper.make_node("Neg", [sigmoid.input[0]], ["negated"]))
    decoder.graph.node[at + 1].input[0] = "negated"
    onnx.save(decoder, beside / "decoder.onnx")
    with np.load(beside / "golden.npz") as archive:
        golden = dict(archive)
    session = ort.InferenceSession(beside / "decoder.onnx", providers=["CPUExecutionProvider"])
    golden["decoded_pixels"], golden["decoded_means"] = session.run(
        ["pixels", "means"], {"latents": golden["latents"]}
    )
    np.savez(beside / "golden.npz", **golden)
    _rewrite(beside, name, version)
    return _move(beside, models / name / version)


def _rewrite(folder: Path, name: str, version: str) -> None:
    """Bring the manifest's name, version, hashes and sizes up to date."""
    manifest = json.loads((folder / "manifest.json").read_text()) | {"name": name, "version": version}
    for file, spec in manifest["files"].items():
        content = (folder / file).read_bytes()
        spec |= {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def _move(beside: Path, folder: Path) -> Path:
    folder.parent.mkdir(parents=True, exist_ok=True)
    return beside.rename(folder)
