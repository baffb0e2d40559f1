"""Whatever a bundle holds, it is served or refused in one line; nothing in it crashes the server or hangs it.

Each is read in a child process, as a server that starts reads it: manifest, arrays, graphs, golden outputs.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import math
import os
import signal
import struct
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.serving import FASHION
from tests.soak import wire_format
from tests.soak.bundle_readers import BundleReader
from tests.soak.scale import SHORT_EXAMPLES, is_soak
from tests.soak.verdict import Verdict

REFUSALS = frozenset({"BadBundle", "BadSettings"})
ARRAYS = ("latent_space.npz", "golden.npz")
GRAPHS = ("encoder.onnx", "decoder.onnx")


class Files(dict[str, bytes]):
    """Files by name, which hypothesis shows by their sizes; its blob reproduces them."""

    def __repr__(self) -> str:
        return ", ".join(f"{name}: {len(content)} bytes" for name, content in self.items())


@pytest.fixture(scope="module")
def reader() -> Iterator[BundleReader]:
    """A child process that reads bundles."""
    made = BundleReader()
    yield made
    made.close()


@functools.cache
def original(name: str) -> bytes:
    """Give a file of the bundled model."""
    return (FASHION / name).read_bytes()


def lay_out(models: Path, files: Files, *, honest: bool = True) -> Path:
    """Put a bundle together: the bundled model with other ``files``, whose hashes are right if ``honest``."""
    folder = models / "fashion-mnist" / "1"
    folder.mkdir(parents=True, exist_ok=True)
    manifest = json.loads(original("manifest.json"))
    for name in manifest["files"]:
        place = folder / name
        place.unlink(missing_ok=True)
        if name in files:
            place.write_bytes(files[name])
            if honest:
                content = files[name]
                manifest["files"][name] |= {
                    "sha256": hashlib.sha256(content).hexdigest(),
                    "bytes": len(content),
                }
        else:
            place.symlink_to(FASHION / name)
    (folder / "manifest.json").write_bytes(files.get("manifest.json", json.dumps(manifest).encode()))
    return folder


def hunt(
    strategy: st.SearchStrategy[Files],
    kind: str,
    share: float,
    models: Path,
    reader: BundleReader,
    verdict: Verdict,
) -> None:
    """Read bundles with the files of a strategy."""
    most = settings().max_examples if is_soak() else SHORT_EXAMPLES

    @given(strategy)
    @settings(max_examples=max(3, int(most * share)), suppress_health_check=list(HealthCheck))
    def case(files: Files) -> None:
        code, text = reader.read(lay_out(models, files))
        verdict.count(kind, code)
        assert code in REFUSALS | {"SERVED"}, text
        assert text.isprintable(), text

    with verdict.timed(kind):
        case()


# Strategies of whole graphs are shown, too.
pytestmark = pytest.mark.filterwarnings("ignore:Generating overly large repr")


def test_a_reader_that_dies_is_a_finding(tmp_path: Path, reader: BundleReader) -> None:
    """Where the child is ended by a signal that is told, and the next bundle has another child."""
    folder = lay_out(tmp_path, Files())
    assert reader.read(folder) == ("SERVED", "")
    assert reader.pid
    os.kill(reader.pid, signal.SIGSEGV)
    assert reader.read(folder) == ("CRASHED", f"status {-signal.SIGSEGV}")
    assert reader.read(folder) == ("SERVED", "")


# ---- the manifest --------------------------------------------------------------------------------------------

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([0, -1, 2**31, 2**63, 2**64, 10**400, 1.5, -0.0, math.nan, math.inf]),
    st.text(max_size=10),
    st.sampled_from(
        [
            "",
            "..",
            "../x",
            "../../../../etc/passwd",
            "/etc/passwd",
            "a/b",
            "decoder.onnx",
            "n",
            "a\0b",
            "x" * 5000,
        ]
    ),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=8,
)


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield from _places(inner, (*path, key))


PLACES = sorted(filter(None, _places(json.loads(original("manifest.json")))), key=str)


@st.composite
def manifests(draw: Callable[..., Any]) -> Files:
    """A manifest in which some values are others, under other keys, or not there."""
    manifest = json.loads(original("manifest.json"))
    for path in draw(st.lists(st.sampled_from(PLACES), min_size=1, max_size=3)):
        *parents, last = path
        part = manifest
        with suppress(KeyError, IndexError, TypeError):  # an earlier change has taken it away
            for key in parents:
                part = part[key]
            change = draw(st.sampled_from(["value", "value", "remove", "rename", "add"]))
            if change == "value":
                part[last] = draw(values)
            elif change == "add":
                part[draw(st.text(max_size=8))] = draw(values)
            else:
                taken = part.pop(last)
                if change == "rename":
                    part[draw(st.one_of(st.text(max_size=8), st.just("../x")))] = taken
    return Files({"manifest.json": json.dumps(manifest).encode("utf-8", "surrogatepass")})


broken_manifests = st.one_of(
    st.just(original("manifest.json")).flatmap(wire_format.flipped),
    st.binary(max_size=60),
    values.map(lambda value: json.dumps(value).encode("utf-8", "surrogatepass")),
    st.integers(1, 200_000).map(lambda depth: b"[" * depth),
    st.integers(1, 200_000).map(lambda depth: b'{"a":' * depth),
).map(lambda content: Files({"manifest.json": content}))


def test_any_manifest_is_served_or_refused(tmp_path: Path, reader: BundleReader, verdict: Verdict) -> None:
    """A manifest with any values, keys or bytes is refused in one line, or served."""
    hunt(st.one_of(manifests(), manifests(), broken_manifests), "manifests", 0.2, tmp_path, reader, verdict)


# ---- the arrays ----------------------------------------------------------------------------------------------


def _npy(header: bytes, data: bytes, version: tuple[int, int] = (1, 0)) -> bytes:
    size = struct.pack("<H" if version == (1, 0) else "<I", len(header))
    return b"\x93NUMPY" + bytes(version) + size + header + data


headers = st.one_of(
    st.builds(
        lambda descr, order, shape: str({"descr": descr, "fortran_order": order, "shape": shape}).encode(),
        st.one_of(
            st.sampled_from(
                ["<f4", "|u1", "<f8", "|O", "<U4", "<M8[ns]", ">f4", "<c8", "|V9", "<f16", "|S0", ""]
            ),
            st.sampled_from([[("a", "<f4")], [("a", "|O")], [("a", "<f4", (2**40,))]]),
        ),
        st.booleans(),
        st.lists(st.sampled_from([0, 1, 16, 32, -1, 2**31, 2**40, 2**62, 2**63]), max_size=5).map(tuple),
    ),
    st.binary(max_size=80),
    st.sampled_from([b"(" * 5000, b"{" * 200, b"__import__('os').abort()", b"'" + b"a" * 9000 + b"'"]),
)
members = st.one_of(
    st.builds(_npy, headers, st.binary(max_size=64), st.sampled_from([(1, 0), (2, 0), (3, 0), (9, 9)])),
    st.binary(max_size=40),
    # What a pickle would do if it were loaded: end the child.
    st.just(_npy(b"{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", b"cos\nabort\n(tR.")),
)


@st.composite
def archives(draw: Callable[..., Any]) -> Files:
    """One of the archives: bytes of it changed, or members put in place of its arrays, beside them or away."""
    name = draw(st.sampled_from(ARRAYS))
    if draw(st.booleans()):
        return Files({name: draw(wire_format.flipped(original(name)))})
    with zipfile.ZipFile(io.BytesIO(original(name))) as old:
        content = {member: old.read(member) for member in old.namelist()}
    names = st.sampled_from([*sorted(content), "../x.npy", "/etc/x.npy", "x", "", "a" * 300])
    for member in draw(st.lists(names, min_size=1, max_size=2)):
        content[member] = draw(
            st.one_of(members, wire_format.flipped(content.get(member, b"")[:300]).map(lambda made: made))
        )
    buffer = io.BytesIO()
    with zipfile.ZipFile(
        buffer, "w", draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))
    ) as new:
        for member, data in content.items():
            new.writestr(zipfile.ZipInfo(member or "empty"), data)
    return Files({name: buffer.getvalue()})


@st.composite
def lying_arrays(draw: Callable[..., Any]) -> Files:
    """One array with other values, of another type or another shape."""
    name = draw(st.sampled_from(ARRAYS))
    with np.load(io.BytesIO(original(name))) as archive:
        arrays = dict(archive)
    key = draw(st.sampled_from(sorted(arrays)))
    changes: list[Callable[[Any], Any]] = [
        lambda a: a[:0],
        lambda a: a[..., None],
        lambda a: a.astype(np.float16),
        lambda a: a.astype("U3"),
        lambda a: np.full_like(a, 0),
        lambda a: a * 0 + 1,
        lambda a: np.where(np.arange(a.size).reshape(a.shape) == a.size // 2, np.nan, a).astype(a.dtype),
        lambda a: (a * 1e30).astype(a.dtype),
        lambda a: a[::-1],
        lambda a: np.asfortranarray(a),
        lambda a: a.astype(a.dtype.newbyteorder(">")),
        lambda a: a.flat[0],
    ]
    with np.errstate(all="ignore"):
        arrays[key] = draw(st.sampled_from(changes))(arrays[key])
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return Files({name: buffer.getvalue()})


@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_any_arrays_are_served_or_refused(tmp_path: Path, reader: BundleReader, verdict: Verdict) -> None:
    """Archives with any bytes, members or arrays are refused in one line, or served; none is unpickled."""
    hunt(st.one_of(archives(), lying_arrays()), "arrays", 0.1, tmp_path, reader, verdict)


# ---- the graphs ----------------------------------------------------------------------------------------------

numbers = st.sampled_from([0, 1, -1, 2, 7, 2**31 - 1, 2**31, 2**40, 2**62, -(2**63), 2**63 - 1])
locations = st.sampled_from(
    [
        "/etc/passwd",
        "etc/passwd",
        "../x",
        "golden.npz",
        "latent_space.npz",
        "",
        ".",
        "/dev/zero",
        "/proc/self/environ",
    ]
)
OPERATORS = (
    "Relu",
    "Gemm",
    "Loop",
    "If",
    "Scan",
    "Expand",
    "Tile",
    "Range",
    "Pad",
    "Resize",
    "Nope",
    "MatMul",
    "",
)


def _change_initializer(draw: Callable[..., Any], model: onnx.ModelProto) -> None:
    tensor = draw(st.sampled_from(list(model.graph.initializer)))
    match draw(st.integers(0, 5)):
        case 0:
            tensor.dims[:] = draw(st.lists(numbers, max_size=5))
        case 1:
            tensor.raw_data = tensor.raw_data[: draw(st.integers(0, 100))]
        case 2:
            tensor.data_type = draw(st.integers(-1, 30))
        case 3:
            tensor.ClearField("raw_data")
            tensor.data_location = onnx.TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value=draw(locations))
            tensor.external_data.add(key="offset", value=str(draw(numbers)))
            tensor.external_data.add(key="length", value=str(draw(numbers)))
        case 4:
            tensor.name = draw(st.sampled_from(["", "latents", model.graph.node[-1].output[0], "x" * 10_000]))
        case _:
            tensor.float_data[:] = [draw(st.floats(width=32, allow_nan=True))] * draw(st.integers(0, 9))


def _change_node(draw: Callable[..., Any], model: onnx.ModelProto) -> None:
    node = draw(st.sampled_from(list(model.graph.node)))
    every = [name for each in model.graph.node for name in (*each.input, *each.output)]
    match draw(st.integers(0, 6)):
        case 0:
            node.op_type = draw(st.sampled_from(OPERATORS))
        case 1 if node.input:
            node.input[draw(st.integers(0, len(node.input) - 1))] = draw(
                st.sampled_from([*every, "", "nowhere"])
            )
        case 2 if node.output:
            node.output[0] = draw(st.sampled_from([*every, ""]))
        case 3 if node.attribute:
            attribute = draw(st.sampled_from(list(node.attribute)))
            attribute.ints[:] = draw(st.lists(numbers, max_size=6))
            attribute.i = draw(numbers)
            attribute.type = draw(st.sampled_from([0, 1, 2, 3, 5, 6, 7, 8]))
        case 4:
            node.domain = draw(st.sampled_from(["com.microsoft", "ai.onnx.ml", "nope", "\0"]))
        case 5:
            model.graph.node.add().CopyFrom(node)
        case _:
            model.graph.node.remove(node)


def _change_face(draw: Callable[..., Any], model: onnx.ModelProto) -> None:
    match draw(st.integers(0, 4)):
        case 0:
            model.ir_version = draw(numbers)
        case 1:
            model.opset_import[0].version = draw(numbers)
        case 2:
            shape = draw(st.sampled_from([*model.graph.input, *model.graph.output])).type.tensor_type.shape
            for size in shape.dim:
                size.dim_value = draw(numbers)
        case 3:
            model.graph.output[0].type.tensor_type.elem_type = draw(st.integers(0, 30))
        case _:
            del model.graph.output[:]


@st.composite
def graphs(draw: Callable[..., Any]) -> Files:
    """One of the graphs with something of it changed, in its bytes or in its meaning."""
    name = draw(st.sampled_from(GRAPHS))
    way = draw(st.integers(0, 4))
    if way == 0:
        return Files({name: draw(wire_format.flipped(original(name)))})
    if way == 1:
        return Files({name: draw(wire_format.mutated(original(name), 6))})
    model = onnx.load_from_string(original(name))
    for change in draw(
        st.lists(
            st.sampled_from([_change_initializer, _change_node, _change_node, _change_face]),
            min_size=1,
            max_size=2,
        )
    ):
        with suppress(
            ValueError, IndexError
        ):  # a number that its field cannot hold; what the other change took away
            change(draw, model)
    return Files({name: model.SerializeToString()})


def test_any_graph_is_served_or_refused(tmp_path: Path, reader: BundleReader, verdict: Verdict) -> None:
    """Graphs with any bytes, operators, shapes or data outside are refused in one line, or served."""
    hunt(graphs(), "graphs", 0.15, tmp_path, reader, verdict)


def test_a_file_that_its_manifest_does_not_know_is_refused(
    tmp_path: Path, reader: BundleReader, verdict: Verdict
) -> None:
    """Where a single bit of a file is another than the manifest says, the bundle is refused."""
    kind = "stale hashes"

    @given(st.sampled_from([*ARRAYS, *GRAPHS]), st.integers(0, 2**32), st.integers(0, 7))
    @settings(max_examples=max(3, int((settings().max_examples if is_soak() else SHORT_EXAMPLES) * 0.02)))
    def case(name: str, place: int, bit: int) -> None:
        content = bytearray(original(name))
        content[place % len(content)] ^= 1 << bit
        code, text = reader.read(lay_out(tmp_path, Files({name: bytes(content)}), honest=False))
        verdict.count(kind, code)
        assert code == "BadBundle"
        assert "sha256" in text

    with verdict.timed(kind):
        case()
