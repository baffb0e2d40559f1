"""A bundle that cannot be served stops the start with one line and exit status 2, whatever is wrong with it."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from armoire import config
from armoire.client import Client
from armoire.errors import BadBundle
from armoire.ops import bundle
from armoire.server import Server
from tests.serving import ANY_PORT, serving

Damage = Callable[[Path], object]
FILES = ("encoder.onnx", "decoder.onnx", "latent_space.npz", "golden.npz")


def manifest_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "manifest.json").read_text())


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    (folder / "manifest.json").write_text(json.dumps(manifest))


def rehash(folder: Path) -> None:
    """Bring the manifest's hashes and sizes up to date, as an exporter would."""
    manifest = manifest_of(folder)
    for name, spec in manifest["files"].items():
        content = (folder / name).read_bytes()
        spec |= {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    write_manifest(folder, manifest)


def refusal(folder: Path) -> str:
    """Start a server on the bundle, which fails: its one line."""
    settings = config.load(ANY_PORT | {"models": str(folder.parent.parent)}, {})

    async def start() -> None:
        await Server(settings).start()

    with pytest.raises(BadBundle) as caught:
        asyncio.run(start())
    text = str(caught.value)
    assert text
    assert "\n" not in text
    return text


def edit(**changes: Any) -> Damage:
    """Set keys of the manifest; a dotted name reaches into it, and ``...`` removes."""

    def damage(folder: Path) -> None:
        manifest = manifest_of(folder)
        for path, value in changes.items():
            *parents, last = path.split("__")
            part = manifest
            for key in parents:
                part = part[int(key) if isinstance(part, list) else key]
            if value is ...:
                del part[last]
            else:
                part[last] = value
        write_manifest(folder, manifest)

    return damage


def arrays(file: str, **changes: Any) -> Damage:
    """Change arrays of an npz file by functions of the old ones, ``...`` removes; the hashes are right again."""

    def damage(folder: Path) -> None:
        with np.load(folder / file) as archive:
            content = dict(archive)
        for name, change in changes.items():
            if change is ...:
                del content[name]
            else:
                content[name] = change(content[name])
        np.savez(folder / file, **content)
        rehash(folder)

    return damage


def replaced(file: str, content: bytes) -> Damage:
    """Other bytes under the name of a file; the hashes are right again."""

    def damage(folder: Path) -> None:
        (folder / file).write_bytes(content)
        rehash(folder)

    return damage


def test_an_untouched_copy_is_served(bundle_copy: Path) -> None:
    """What the tests below damage is good while it is whole."""
    with serving(models=str(bundle_copy.parent.parent)) as running, Client(running.address) as client:
        assert [model.name for model in client.models()] == ["fashion-mnist"]


def test_keys_that_a_later_exporter_may_add_are_passed_over(bundle_copy: Path) -> None:
    """An unknown key is no fault."""
    edit(colour="blue")(bundle_copy)
    assert bundle.read(bundle_copy).manifest.name == "fashion-mnist"


# ---- files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*FILES, "README.md"])
def test_a_missing_file(bundle_copy: Path, name: str) -> None:
    """A file that the manifest lists and that is not there is named."""
    (bundle_copy / name).unlink()
    assert f"{bundle_copy / name} cannot be read: No such file or directory" in refusal(bundle_copy)


@pytest.mark.parametrize("name", [*FILES, "README.md"])
def test_a_wrong_hash(bundle_copy: Path, name: str) -> None:
    """One flipped bit is found, and both hashes are told."""
    content = bytearray((bundle_copy / name).read_bytes())
    wanted = hashlib.sha256(content).hexdigest()[:12]
    content[len(content) // 2] ^= 1
    (bundle_copy / name).write_bytes(content)
    came = hashlib.sha256(content).hexdigest()[:12]
    assert f"{name} has sha256 {came}...; the manifest says {wanted}..." in refusal(bundle_copy)


@pytest.mark.parametrize("name", FILES)
def test_a_wrong_size(bundle_copy: Path, name: str) -> None:
    """A file that was copied in part is told with both sizes."""
    content = (bundle_copy / name).read_bytes()
    (bundle_copy / name).write_bytes(content[:-7])
    assert f"{name} has {len(content) - 7} bytes; the manifest says {len(content)}" in refusal(bundle_copy)


def test_a_folder_in_place_of_a_file(bundle_copy: Path) -> None:
    """A folder under a file's name is no file."""
    (bundle_copy / "golden.npz").unlink()
    (bundle_copy / "golden.npz").mkdir()
    size = (bundle_copy / "golden.npz").stat().st_size
    manifest = manifest_of(bundle_copy)
    manifest["files"]["golden.npz"]["bytes"] = size
    write_manifest(bundle_copy, manifest)
    assert "golden.npz cannot be read: Is a directory" in refusal(bundle_copy)


def test_swapped_graphs_with_stale_hashes(bundle_copy: Path) -> None:
    """Encoder and decoder under each other's name differ in size or hash."""
    swap(bundle_copy)
    text = refusal(bundle_copy)
    assert "coder.onnx has " in text
    assert "the manifest says" in text


def test_swapped_graphs_with_right_hashes(bundle_copy: Path) -> None:
    """Encoder and decoder under each other's name are told by their inputs."""
    swap(bundle_copy)
    rehash(bundle_copy)
    text = refusal(bundle_copy)
    assert "encoder.onnx has the inputs {'latents'" in text
    assert "the manifest says {'pixels'" in text


def swap(folder: Path) -> None:
    (folder / "encoder.onnx").rename(folder / "other")
    (folder / "decoder.onnx").rename(folder / "encoder.onnx")
    (folder / "other").rename(folder / "decoder.onnx")


# ---- the folder --------------------------------------------------------------------------------------------


def test_no_folder(tmp_path: Path) -> None:
    """A path that is no folder is told with what it should hold."""
    text = refusal(tmp_path / "no" / "such" / "folder")
    assert f"{tmp_path / 'no'} is no folder; it should hold <name>/<version>/manifest.json" in text


@pytest.mark.parametrize("inside", ["", "fashion-mnist", "fashion-mnist/1.part", "fashion-mnist/latest"])
def test_a_folder_without_bundles(tmp_path: Path, inside: str) -> None:
    """An empty folder, one without versions, or with unfinished ones only, holds no bundle."""
    (tmp_path / "models" / inside).mkdir(parents=True)
    assert f"{tmp_path / 'models'} holds no bundle" in refusal(tmp_path / "models" / "x" / "1")


def test_a_missing_manifest(bundle_copy: Path) -> None:
    """A version without its manifest is named, and not passed over in silence beside a good one."""
    (bundle_copy.parent / "2").mkdir()
    assert f"{bundle_copy.parent / '2'}/manifest.json cannot be read: No such file" in refusal(bundle_copy)


@pytest.mark.parametrize(
    ("name", "version"), [("other", "1"), ("fashion-mnist", "2"), ("fashion-mnist", "01")]
)
def test_a_folder_named_otherwise_than_its_manifest(bundle_copy: Path, name: str, version: str) -> None:
    """A bundle says who it is, and its folder has to agree."""
    other = bundle_copy.parent.parent / name / version
    other.parent.mkdir(exist_ok=True)
    bundle_copy.rename(other)
    assert f"{other} holds fashion-mnist/1; its folder should be named so" in refusal(other)


def test_versions_are_found_in_order_of_their_numbers(bundle_copy: Path) -> None:
    """Version 10 comes after version 9, and what is no version is left alone."""
    models = bundle_copy.parent.parent
    for version in ("10", "9", "10.part", "backup"):
        (bundle_copy.parent / version).mkdir()
    (models / "a-first" / "3").mkdir(parents=True)
    (models / "a-file").write_text("no folder")
    found = [f"{path.parent.name}/{path.name}" for path in bundle.find(models)]
    assert found == ["a-first/3", "fashion-mnist/1", "fashion-mnist/9", "fashion-mnist/10"]


# ---- the manifest ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"{", b"no json", b"\xff\xfe", b"[]", b"null", b"[" * 10_000])
def test_a_manifest_that_is_no_json_object(bundle_copy: Path, content: bytes) -> None:
    """Anything but a JSON object is told by the file's name."""
    (bundle_copy / "manifest.json").write_bytes(content)
    assert f"{bundle_copy}/manifest.json: manifest: " in refusal(bundle_copy)


KEYS = ["format", "name", "version", "image", "latent_size", "likelihood", "graphs", "files", "preprocessing"]
KEYS += ["attributes", "priors", "default_prior", "metrics", "training", "licence"]


@pytest.mark.parametrize("key", KEYS)
def test_a_manifest_that_lacks_a_key(bundle_copy: Path, key: str) -> None:
    """Every key is needed, and the one that is missing is named."""
    edit(**{key: ...})(bundle_copy)
    assert f"{bundle_copy}/manifest.json: manifest: Object missing required field `{key}`" in refusal(
        bundle_copy
    )


@pytest.mark.parametrize("key", KEYS)
def test_a_manifest_with_a_key_of_a_wrong_type(bundle_copy: Path, key: str) -> None:
    """A value of another type is told by its key."""
    edit(**{key: [None]})(bundle_copy)
    assert f"{bundle_copy}/manifest.json: {key}" in refusal(bundle_copy)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": 2}, "format: Invalid enum value 2"),
        ({"name": "../evil"}, "name: "),
        ({"version": "0"}, "version: "),
        ({"version": "1\n"}, "version: "),
        ({"image__channels": 2}, "image.channels: "),
        ({"image__height": 0}, "image.height: "),
        ({"image__height": 10**9}, "image.height: "),
        ({"latent_size": -1}, "latent_size: "),
        ({"likelihood": "cauchy"}, "likelihood: "),
        ({"default_prior": "cauchy"}, "default_prior 'cauchy' is not among the priors"),
        ({"priors": ["normal", "cauchy"]}, "priors.1: "),
        ({"metrics__sum": float("nan")}, "JSON is malformed: invalid character"),
        ({"attributes__0__auc": 1.5}, "attributes.0.auc: "),
        ({"preprocessing__pad": 3}, "preprocessing does not end at the image's size"),
        ({"preprocessing__resize": [28]}, "preprocessing.resize"),
        ({"preprocessing__crop": "circle"}, "preprocessing.crop: "),
        ({"preprocessing__crop": 0}, "preprocessing.crop: "),
        ({"graphs__encoder": ...}, "graphs lacks encoder"),
        ({"graphs__encoder__file": "../decoder.onnx"}, "graphs.encoder.file: "),
        ({"graphs__encoder__file": "/etc/passwd"}, "graphs.encoder.file: "),
        ({"graphs__encoder__file": "other.onnx"}, "files does not list other.onnx"),
        ({"graphs__decoder__variants": {"tpu": "decoder.onnx"}}, "graphs.decoder.variants.tpu"),
        ({"graphs__decoder__variants": {"openvino": "../x.onnx"}}, "graphs.decoder.variants.openvino"),
        ({"graphs__decoder__variants": {"openvino": "x.onnx"}}, "files does not list x.onnx"),
        ({"graphs__decoder__variants": ["decoder.onnx"]}, "graphs.decoder.variants: "),
        ({"graphs__decoder__inputs": {}}, "the decoder's inputs and outputs do not agree with image"),
        ({"files__golden.npz": ...}, "files does not list golden.npz"),
        ({"files__golden.npz": {"sha256": "0" * 63, "bytes": 1}}, "files.golden.npz.sha256: "),
        ({"files__golden.npz": {"sha256": "0" * 64, "bytes": -1}}, "files.golden.npz.bytes: "),
        ({"files__golden.npz": {"sha256": "0" * 64, "bytes": 2**40}}, "files.golden.npz.bytes: "),
        ({"files__sub/secret": {"sha256": "0" * 64, "bytes": 1}}, "files.sub/secret"),
        (
            {"files__golden.npz": {"sha256": "0" * 64}},
            "files.golden.npz: Object missing required field `bytes`",
        ),
        ({"files__..": {"sha256": "0" * 64, "bytes": 1}}, "files..."),
    ],
    ids=lambda case: "-".join(case) if isinstance(case, dict) else "",
)
def test_a_manifest_with_a_value_that_cannot_be(
    bundle_copy: Path, changes: dict[str, Any], words: str
) -> None:
    """A value out of its range, a path out of the bundle, or parts that disagree are told by their place."""
    edit(**changes)(bundle_copy)
    text = refusal(bundle_copy)
    assert f"{bundle_copy}/manifest.json: " in text
    assert words in text


def test_a_latent_size_that_disagrees_with_the_graphs_of_the_manifest(bundle_copy: Path) -> None:
    """The manifest's own graphs have another latent size."""
    edit(latent_size=manifest_of(bundle_copy)["latent_size"] + 1)(bundle_copy)
    assert "the encoder's inputs and outputs do not agree" in refusal(bundle_copy)


def resized(by: int) -> Damage:
    """Another latent size everywhere in the manifest."""

    def damage(folder: Path) -> None:
        manifest = manifest_of(folder)
        manifest["latent_size"] += by
        point = {"dtype": "float32", "shape": ["n", manifest["latent_size"]]}
        manifest["graphs"]["encoder"]["outputs"] = dict.fromkeys(("mean", "log_variance"), point)
        manifest["graphs"]["decoder"]["inputs"] = {"latents": point}
        write_manifest(folder, manifest)

    return damage


def test_a_latent_size_that_disagrees_with_the_arrays(bundle_copy: Path) -> None:
    """The directions have another width than the manifest says."""
    resized(1)(bundle_copy)
    assert "attribute_directions is float32 [10, 16]; float32 [10, 17] is wanted" in refusal(bundle_copy)


def test_a_latent_size_that_disagrees_with_the_graphs(bundle_copy: Path) -> None:
    """The graphs have another latent size than manifest and arrays, which agree."""
    resized(1)(bundle_copy)

    def wider(array: np.ndarray) -> np.ndarray:
        return np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, 1)])

    edit(priors=["normal"], default_prior="normal")(bundle_copy)
    arrays("latent_space.npz", attribute_directions=wider)(bundle_copy)
    arrays("golden.npz", mean=wider, log_variance=wider, latents=wider)(bundle_copy)
    came, _, wanted = refusal(bundle_copy).partition("; the manifest says ")
    assert "encoder.onnx has the outputs {'mean': ('float32', (" in came
    assert "16" in came
    assert "17" in wanted


# ---- the arrays --------------------------------------------------------------------------------------------


def saved(**content: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **content)
    return buffer.getvalue()


def archived(name: str, content: bytes, *, encrypted: bool = False) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, content)
    entry = buffer.getvalue()
    # The flags of a member lie eight bytes into its entry in the directory.
    flags = entry.index(b"PK\x01\x02") + 8
    return entry[:flags] + bytes([encrypted]) + entry[flags + 1 :]


def npy(shape: tuple[int, ...]) -> bytes:
    """An array of zeros, or the beginning of one that is too large for any memory."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f8", "fortran_order": False, "shape": shape})
    return buffer.getvalue() + bytes(64)


DIRECTIONS = "attribute_directions.npy"
NO_ARCHIVE: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "is no plain npz archive: "),
    "a text": (b"no archive", "is no plain npz archive: "),
    "a pickle": (b"\x80\x04N.", "is no plain npz archive: "),
    "one npy array": (npy((8,)), "is no plain npz archive: "),
    "a zip cut short": (saved(a=np.zeros(1000))[:-30], "is no plain npz archive: "),
    "pickled objects": (saved(a=np.array([{"a": 1}], dtype=object)), "Object arrays cannot be loaded"),
    "a text among arrays": (archived("notes", b"just text"), "holds 'notes', which is no array"),
    "a broken header": (
        archived(DIRECTIONS, b"\x93NUMPY\x01\x00\x10\x00{'descr': (((("),
        "is no plain npz archive: ",
    ),
    "a header cut short": (archived(DIRECTIONS, b"\x93NUMPY\x01"), "is no plain npz archive: "),
    "80 TB of zeros": (archived(DIRECTIONS, npy((10**13,))), "is no plain npz archive: "),
    "an encrypted array": (archived(DIRECTIONS, npy((8,)), encrypted=True), "encrypted"),
}


@pytest.mark.parametrize("file", ["latent_space.npz", "golden.npz"])
@pytest.mark.parametrize(("content", "words"), NO_ARCHIVE.values(), ids=NO_ARCHIVE)
def test_a_file_that_is_no_plain_archive_of_arrays(
    bundle_copy: Path, file: str, content: bytes, words: str
) -> None:
    """Text, pickles, single arrays, damaged and encrypted archives are told by the file's name, and never run."""
    replaced(file, content)(bundle_copy)
    text = refusal(bundle_copy)
    assert text.startswith(f"{bundle_copy / file} ")
    assert words in text


def nan(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array.flat[-1] = np.nan
    return array


ARRAYS: dict[str, tuple[Damage, str]] = {
    "no directions": (arrays("latent_space.npz", attribute_directions=...), "lack attribute_directions"),
    "a direction less": (
        arrays("latent_space.npz", attribute_directions=lambda a: a[1:]),
        "attribute_directions is float32 [9, 16]; float32 [10, 16] is wanted",
    ),
    "flat directions": (
        arrays("latent_space.npz", attribute_directions=np.ravel),
        "float32 [10, 16] is wanted",
    ),
    "double directions": (
        arrays("latent_space.npz", attribute_directions=np.float64),
        "attribute_directions is float64 [10, 16]; float32 [10, 16] is wanted",
    ),
    "big-endian directions": (
        arrays("latent_space.npz", attribute_directions=lambda a: a.astype(">f4")),
        "float32 [10, 16] is wanted",
    ),
    "NaN in directions": (
        arrays("latent_space.npz", attribute_directions=nan),
        "attribute_directions is not finite",
    ),
    "no weights": (arrays("latent_space.npz", mixture_weights=...), "lack mixture_weights"),
    "empty weights": (arrays("latent_space.npz", mixture_weights=lambda a: a[:0]), "not positive with sum 1"),
    "negative weights": (
        arrays("latent_space.npz", mixture_weights=lambda a: np.r_[a[:-2], a[-2] + a[-1] + 1, -1.0]),
        "not positive with sum 1",
    ),
    "weights of sum 2": (
        arrays("latent_space.npz", mixture_weights=lambda a: a * 2),
        "not positive with sum 1",
    ),
    "a mean less": (arrays("latent_space.npz", mixture_means=lambda a: a[1:]), "mixture_means is float64"),
    "NaN in means": (arrays("latent_space.npz", mixture_means=nan), "mixture_means is not finite"),
    "flat choleskys": (
        arrays("latent_space.npz", mixture_choleskys=lambda a: a[:, 0]),
        "mixture_choleskys is float64",
    ),
    "NaN in choleskys": (
        arrays("latent_space.npz", mixture_choleskys=nan),
        "mixture_choleskys is not finite",
    ),
    "no golden pixels": (arrays("golden.npz", pixels=...), "golden.npz has no pixels"),
    "zero golden pixels": (arrays("golden.npz", pixels=lambda a: a[:0]), "golden.npz has no pixels"),
    "a scalar of golden pixels": (
        arrays("golden.npz", pixels=lambda _: np.uint8(3)),
        "golden.npz has no pixels",
    ),
    "golden pixels of another size": (arrays("golden.npz", pixels=lambda a: a[:, 1:]), "pixels is uint8 ["),
    "no golden latents": (arrays("golden.npz", latents=...), "lack latents"),
    "fewer golden latents": (arrays("golden.npz", latents=lambda a: a[1:]), "latents is float32 ["),
    "NaN in the golden mean": (arrays("golden.npz", mean=nan), "mean is not finite"),
    "golden means of pixels as bytes": (
        arrays("golden.npz", decoded_means=np.uint8),
        "decoded_means is uint8",
    ),
}


@pytest.mark.parametrize(("damage", "words"), ARRAYS.values(), ids=ARRAYS)
def test_an_array_of_a_wrong_shape_type_or_value(bundle_copy: Path, damage: Damage, words: str) -> None:
    """Each array is held to its shape, its type and finite values, and named where it differs."""
    damage(bundle_copy)
    assert words in refusal(bundle_copy)


def test_an_archive_that_unpacks_to_more_than_a_file_may_hold(
    bundle_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An array of zeros that is small only in the archive is refused before it is unpacked."""
    monkeypatch.setattr(bundle, "MAX_FILE_BYTES", 1 << 26)
    np.savez_compressed(bundle_copy / "golden.npz", pixels=np.zeros((1 << 26) + 1, np.uint8))
    assert (bundle_copy / "golden.npz").stat().st_size < 1 << 20
    rehash(bundle_copy)
    with pytest.raises(BadBundle, match=r"golden.npz unpacks to \d+ bytes; at most \d+ are taken"):
        bundle.read(bundle_copy)


def test_a_bundle_without_a_fitted_prior_needs_no_mixture(bundle_copy: Path) -> None:
    """Where the manifest names the normal prior only, the arrays of a mixture may be missing."""
    edit(priors=["normal"], default_prior="normal")(bundle_copy)
    arrays("latent_space.npz", mixture_weights=..., mixture_means=..., mixture_choleskys=...)(bundle_copy)
    assert bundle.read(bundle_copy).mixture is None


@pytest.mark.parametrize("place", ["metrics", "files"])
def test_what_a_bundle_says_of_itself_cannot_break_the_line(bundle_copy: Path, place: str) -> None:
    """A key of the manifest with line breaks and control characters is shown escaped."""
    edit(**{f"{place}__a\n\x1b[31mb": None})(bundle_copy)
    assert f"{place}.a\\n\\x1b" in refusal(bundle_copy)


# ---- the graphs --------------------------------------------------------------------------------------------


def graph(file: str, change: Callable[[onnx.ModelProto], object]) -> Damage:
    """Change an ONNX graph; the hashes are right again."""

    def damage(folder: Path) -> None:
        model = onnx.load(folder / file)
        change(model)
        (folder / file).write_bytes(model.SerializeToString())
        rehash(folder)

    return damage


def poison(value: float) -> Callable[[onnx.ModelProto], None]:
    """Put ``value`` into every weight that is a matrix or more."""

    def change(model: onnx.ModelProto) -> None:
        for tensor in model.graph.initializer:
            if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) > 1:
                weights = numpy_helper.to_array(tensor).copy()
                weights[:] = value
                tensor.CopyFrom(numpy_helper.from_array(weights, tensor.name))

    return change


def fix_batch(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 3


def rename_output(model: onnx.ModelProto) -> None:
    old = model.graph.output[0].name
    model.graph.output[0].name = "other"
    for node in model.graph.node:
        node.output[:] = ["other" if name == old else name for name in node.output]


def outside_data(model: onnx.ModelProto) -> None:
    tensor = next(t for t in model.graph.initializer if len(t.dims) > 1)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")


def one_more(array: np.ndarray, by: float) -> np.ndarray:
    """The same array with its least value greater."""
    array = array.copy()
    array.flat[array.argmin()] += by
    return array


GRAPHS: dict[str, tuple[Damage, str]] = {
    "an encoder that is no ONNX": (replaced("encoder.onnx", b"no graph"), "encoder.onnx cannot be loaded"),
    "a decoder of no bytes": (replaced("decoder.onnx", b""), "decoder.onnx cannot be loaded"),
    "a decoder with data outside": (graph("decoder.onnx", outside_data), "decoder.onnx cannot be loaded"),
    "an encoder with another output": (
        graph("encoder.onnx", rename_output),
        "encoder.onnx has the outputs {'other'",
    ),
    "an encoder of NaN": (
        graph("encoder.onnx", poison(np.nan)),
        "encoder's mean differs from its golden output by nan",
    ),
    "a decoder of NaN": (
        graph("decoder.onnx", poison(np.nan)),
        "decoder's pixels differ from its golden output",
    ),
    "an encoder of zeros": (
        graph("encoder.onnx", poison(0)),
        "encoder's mean differs from its golden output",
    ),
    "a decoder of zeros": (
        graph("decoder.onnx", poison(0)),
        "decoder's pixels differ from its golden output",
    ),
    "a golden mean off by 0.01": (
        arrays("golden.npz", mean=lambda a: a + np.float32(0.01)),
        "fashion-mnist/1: the encoder's mean differs from its golden output by 0.0",
    ),
    "one golden log-variance off": (
        arrays("golden.npz", log_variance=lambda a: one_more(a, np.float32(0.01))),
        "fashion-mnist/1: the encoder's log_variance differs from its golden output by 0.0",
    ),
    "one golden pixel off by 3": (
        arrays("golden.npz", decoded_pixels=lambda a: one_more(a, 3)),
        "fashion-mnist/1: the decoder's pixels differ from its golden output by up to ",
    ),
    "golden pixels all off by 1": (
        arrays("golden.npz", decoded_pixels=lambda a: np.where(a < 255, a + 1, a - 1).astype(np.uint8)),
        "by up to 1 of 255 and agree in ",
    ),
    "an encoder for three rows only": (graph("encoder.onnx", fix_batch), "encoder"),
    "a decoder for three rows only": (graph("decoder.onnx", fix_batch), "decoder"),
}


@pytest.mark.parametrize(("damage", "words"), GRAPHS.values(), ids=GRAPHS)
def test_a_graph_that_is_not_what_was_exported(bundle_copy: Path, damage: Damage, words: str) -> None:
    """A graph that cannot be loaded or run, differs from its manifest, or misses its golden outputs is named."""
    damage(bundle_copy)
    assert words in refusal(bundle_copy)


@pytest.mark.parametrize("location", ["weights.bin", "models/fashion-mnist/1/weights.bin"])
@pytest.mark.parametrize("place", ["initializer", "constant"])
def test_no_graph_takes_its_weights_from_another_file(
    bundle_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, location: str, place: str
) -> None:
    """Weights in a file beside the graph or in the working directory are not read, though they be the right ones."""
    monkeypatch.chdir(tmp_path)

    def move(model: onnx.ModelProto) -> None:
        tensor = next(t for t in model.graph.initializer if len(t.dims) > 1)
        (tmp_path / location).write_bytes(tensor.raw_data)
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)
        if place == "constant":
            node = onnx.helper.make_node("Constant", [], [tensor.name], value=tensor)
            model.graph.initializer.remove(tensor)
            model.graph.node.insert(0, node)

    graph("decoder.onnx", move)(bundle_copy)
    assert "decoder.onnx cannot be loaded" in refusal(bundle_copy)


# ---- the process -------------------------------------------------------------------------------------------

PROCESS: dict[str, tuple[Damage, str]] = {
    "a missing file": (lambda folder: (folder / "decoder.onnx").unlink(), "decoder.onnx cannot be read"),
    "no json": (lambda folder: (folder / "manifest.json").write_text("{"), "manifest.json: manifest: "),
    "swapped graphs": (lambda folder: (swap(folder), rehash(folder)), "encoder.onnx has the inputs"),
    "pickled objects": (replaced("golden.npz", NO_ARCHIVE["pickled objects"][0]), "no plain npz archive"),
    "another model": (graph("decoder.onnx", poison(0.25)), "the decoder's pixels differ"),
}


@pytest.mark.parametrize(("damage", "words"), PROCESS.values(), ids=PROCESS)
def test_the_process_says_it_in_one_line_and_exits_with_2(
    bundle_copy: Path, damage: Damage, words: str
) -> None:
    """`armoire serve` writes one line to stderr, no traceback and nothing to stdout, and its exit status is 2."""
    damage(bundle_copy)
    arguments = ["--models", bundle_copy.parent.parent, "--listen", "127.0.0.1:0"]
    done = subprocess.run(
        [sys.executable, "-m", "armoire.cli", "serve", *arguments, "--metrics-listen", "127.0.0.1:0"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={name: value for name, value in os.environ.items() if not name.startswith("ARMOIRE_")},
    )
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("armoire: ")
    assert words in line
