"""Graphs in a form of their own for one provider: which file is read for whom, and that it is the right one."""

from __future__ import annotations

import hashlib
import json
import tracemalloc
from pathlib import Path
from typing import Any

import onnx
import pytest

from armoire.client import Client
from armoire.errors import BadBundle
from armoire.ops import bundle
from tests.serving import serving

VARIANT = "decoder.other.onnx"


def give_variant(folder: Path, provider: str) -> bytes:
    """Write a second decoder that differs in its bytes alone, for one provider; its bytes."""
    proto = onnx.load(folder / "decoder.onnx")
    proto.doc_string = provider
    content: bytes = proto.SerializeToString()
    (folder / VARIANT).write_bytes(content)
    manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    manifest["graphs"]["decoder"]["variants"] = {provider: VARIANT}
    manifest["files"][VARIANT] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return content


@pytest.mark.parametrize("provider", ["cpu", "cuda", "openvino"])
def test_a_provider_gets_its_own_form_and_the_others_the_main_one(bundle_copy: Path, provider: str) -> None:
    """The variant is read for the provider that the manifest names, `file` for every other and for the encoder."""
    content = give_variant(bundle_copy, provider)
    read = bundle.read(bundle_copy)
    main = ((bundle_copy / "decoder.onnx").read_bytes(), "decoder.onnx")
    encoder = ((bundle_copy / "encoder.onnx").read_bytes(), "encoder.onnx")
    for each in ("cpu", "cuda", "openvino"):
        assert read.graph("decoder", each) == ((content, VARIANT) if each == provider else main)
        assert read.graph("encoder", each) == encoder


def test_a_bundle_without_variants_gives_everybody_the_main_file(bundle_copy: Path) -> None:
    """The key may be missing, as in bundles that were written before there were variants."""
    manifest = json.loads((bundle_copy / "manifest.json").read_text())
    manifest["graphs"]["decoder"].pop("variants", None)
    (bundle_copy / "manifest.json").write_text(json.dumps(manifest))
    assert bundle.read(bundle_copy).graph("decoder", "openvino")[1] == "decoder.onnx"


def test_a_bundle_with_a_variant_is_served(bundle_copy: Path) -> None:
    """A server on the CPU answers from a bundle that has a form for somebody else."""
    give_variant(bundle_copy, "openvino")
    with serving(models=str(bundle_copy.parent.parent)) as running, Client(running.address) as client:
        assert client.sample(2, seed=1).images.shape == (2, 32, 32, 1)


def test_a_damaged_variant_is_found_at_reading(bundle_copy: Path) -> None:
    """A variant's hash is verified with all others, whoever takes it."""
    content = bytearray(give_variant(bundle_copy, "openvino"))
    content[-1] ^= 1
    (bundle_copy / VARIANT).write_bytes(content)
    with pytest.raises(BadBundle, match=f"{VARIANT} has sha256 "):
        bundle.read(bundle_copy)


@pytest.mark.parametrize("file", ["encoder.onnx", "decoder.onnx"])
def test_a_graph_that_changed_since_is_refused(bundle_copy: Path, file: str) -> None:
    """What a session is made of is what was verified, or nothing."""
    read = bundle.read(bundle_copy)
    content = bytearray((bundle_copy / file).read_bytes())
    content[len(content) // 2] ^= 1
    (bundle_copy / file).write_bytes(content)
    with pytest.raises(BadBundle, match=f"{file} has sha256 "):
        read.graph("encoder" if file == "encoder.onnx" else "decoder", "cpu")
    (bundle_copy / file).unlink()
    with pytest.raises(BadBundle, match=f"{file} cannot be read"):
        read.graph("encoder" if file == "encoder.onnx" else "decoder", "cpu")


def test_a_bundle_in_memory_is_smaller_than_its_graphs(bundle_copy: Path) -> None:
    """What a bundle keeps is its arrays: no graph's bytes stay behind."""
    bundle.read(bundle_copy)  # imports and caches
    tracemalloc.start()
    try:
        read = bundle.read(bundle_copy)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    arrays = sum(array.nbytes for array in read.golden.values())
    assert (
        arrays < kept < min((bundle_copy / f"{name}.onnx").stat().st_size for name in ("encoder", "decoder"))
    )
