"""Reads and verifies a model bundle: models/<name>/<version>/ with its manifest, graphs and arrays."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from armoire.arrays import Array, Floats
from armoire.errors import BadBundle
from armoire.ops.latents import Mixture
from armoire.ops.manifest import MAX_FILE_BYTES, FileSpec, Manifest, ProviderName, parse

ARRAYS = ("latent_space.npz", "golden.npz")


@dataclass(frozen=True)
class Bundle:
    """A verified bundle: its arrays in memory, its graphs on disk.

    Attributes:
        folder: where its files are.
        manifest: what the exporter wrote.
        directions: by attribute name, float32 [d].
        mixture: the fitted prior, None where the bundle has none.
        golden: inputs and the outputs that PyTorch gave: pixels, mean, log_variance, latents,
            decoded_pixels, decoded_means; first axis the batch.
    """

    folder: Path
    manifest: Manifest
    directions: dict[str, Floats]
    mixture: Mixture | None
    golden: dict[str, Array]

    @property
    def where(self) -> str:
        """NAME/VERSION."""
        return f"{self.manifest.name}/{self.manifest.version}"

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        image = self.manifest.image
        return image.height, image.width, image.channels

    def graph(self, name: Literal["encoder", "decoder"], provider: ProviderName) -> tuple[bytes, str]:
        """Read the form of a graph that ``provider`` takes: the bytes of the ONNX file, and the file's name.

        It is read when a session is made of it, and verified once more, so that no server keeps graphs in memory that
        ONNX Runtime has its own copy of.

        Raises:
            BadBundle: the file is no longer what it was when the bundle was read.
        """
        file = self.manifest.graphs[name].file_for(provider)
        return _read_verified(self.folder / file, self.manifest.files[file]), file


def find(models: Path) -> list[Path]:
    """List the bundles in ``models``, sorted by name, then version.

    Raises:
        BadBundle: no such folder, or no bundle in it.
    """
    if not models.is_dir():
        raise BadBundle(f"{models} is no folder; it should hold <name>/<version>/manifest.json")
    # A version without its manifest is not passed over: read says what is missing.
    found = [path for path in models.glob("*/*") if path.name.isdecimal() and path.is_dir()]
    if not found:
        raise BadBundle(f"{models} holds no bundle; <name>/<version>/manifest.json is wanted")
    return sorted(found, key=lambda path: (path.parent.name, int(path.name)))


def read(folder: Path) -> Bundle:
    """Read the bundle in ``folder`` and verify everything that can be without running a graph.

    Raises:
        BadBundle: a file is missing, damaged, or not what the manifest says.
    """
    try:
        manifest = parse((folder / "manifest.json").read_bytes())
    except OSError as error:
        raise BadBundle(f"{folder}/manifest.json cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise BadBundle(f"{folder}/manifest.json: {error}") from None
    if (manifest.name, manifest.version) != (folder.parent.name, folder.name):
        raise BadBundle(
            f"{folder} holds {manifest.name}/{manifest.version}; its folder should be named so, or re-exported"
        )
    arrays = {}
    for name, spec in manifest.files.items():
        content = _read_verified(folder / name, spec)
        if name in ARRAYS:
            arrays[name] = _arrays(content, folder / name)
    latent_space, golden = (arrays[name] for name in ARRAYS)
    return Bundle(
        folder=folder,
        manifest=manifest,
        directions=_directions(manifest, latent_space, folder),
        mixture=_mixture(manifest, latent_space, folder) if "fitted" in manifest.priors else None,
        golden=_golden(manifest, golden, folder),
    )


def _read_verified(path: Path, spec: FileSpec) -> bytes:
    try:
        size = path.stat().st_size
        if size != spec.bytes:
            raise BadBundle(f"{path} has {size} bytes; the manifest says {spec.bytes}: copy the bundle again")
        content = path.read_bytes()
    except OSError as error:
        raise BadBundle(f"{path} cannot be read: {error.strerror}; copy the bundle again") from None
    came = hashlib.sha256(content).hexdigest()
    if came != spec.sha256:
        raise BadBundle(
            f"{path} has sha256 {came[:12]}...; the manifest says {spec.sha256[:12]}...: copy the bundle again"
        )
    return content


def _arrays(content: bytes, path: Path) -> dict[str, Array]:
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            if (size := sum(entry.file_size for entry in archive.zip.infolist())) > MAX_FILE_BYTES:
                raise BadBundle(f"{path} unpacks to {size} bytes; at most {MAX_FILE_BYTES} are taken")
            arrays = {name: archive[name] for name in archive.files}
    except BadBundle:
        raise
    except Exception as error:  # a damaged archive raises what it likes
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise BadBundle(f"{path} is no plain npz archive: {reason}") from None
    if strange := [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]:
        raise BadBundle(f"{path} holds {strange[0]!r}, which is no array")
    return arrays


def _take(
    arrays: dict[str, Array], name: str, dtype: str, shape: tuple[int | None, ...], folder: Path
) -> Array:
    """Give one array, or say how it differs from what is wanted."""
    array = arrays.get(name)
    if array is None:
        raise BadBundle(f"{folder}: the arrays lack {name}")
    fits = array.ndim == len(shape) and all(
        want in (None, size) for want, size in zip(shape, array.shape, strict=True)
    )
    if array.dtype != dtype or not fits:
        wanted = "[" + ", ".join("any" if size is None else str(size) for size in shape) + "]"
        raise BadBundle(f"{folder}: {name} is {array.dtype} {list(array.shape)}; {dtype} {wanted} is wanted")
    if not np.isfinite(array).all():
        raise BadBundle(f"{folder}: {name} is not finite")
    return array


def _directions(manifest: Manifest, arrays: dict[str, Array], folder: Path) -> dict[str, Floats]:
    names = [attribute.name for attribute in manifest.attributes]
    rows = _take(arrays, "attribute_directions", "float32", (len(names), manifest.latent_size), folder)
    return dict(zip(names, rows, strict=True))


def _mixture(manifest: Manifest, arrays: dict[str, Array], folder: Path) -> Mixture:
    size = manifest.latent_size
    weights = _take(arrays, "mixture_weights", "float64", (None,), folder)
    k = len(weights)
    if k == 0 or (weights < 0).any() or not np.isclose(weights.sum(), 1.0):
        raise BadBundle(f"{folder}: mixture_weights are not positive with sum 1")
    return Mixture(
        weights=weights,
        means=_take(arrays, "mixture_means", "float64", (k, size), folder),
        choleskys=_take(arrays, "mixture_choleskys", "float64", (k, size, size), folder),
    )


def _golden(manifest: Manifest, arrays: dict[str, Array], folder: Path) -> dict[str, Array]:
    image = (manifest.image.height, manifest.image.width, manifest.image.channels)
    count = len(arrays["pixels"]) if arrays.get("pixels") is not None and arrays["pixels"].ndim else 0
    if not count:
        raise BadBundle(f"{folder}: golden.npz has no pixels to check the graphs with")
    point = (count, manifest.latent_size)
    return {
        "pixels": _take(arrays, "pixels", "uint8", (count, *image), folder),
        "mean": _take(arrays, "mean", "float32", point, folder),
        "log_variance": _take(arrays, "log_variance", "float32", point, folder),
        "latents": _take(arrays, "latents", "float32", point, folder),
        "decoded_pixels": _take(arrays, "decoded_pixels", "uint8", (count, *image), folder),
        "decoded_means": _take(arrays, "decoded_means", "float32", (count, *image), folder),
    }
