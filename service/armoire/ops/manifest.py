"""manifest.json: what a bundle says of itself, and the rules that it keeps."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

FORMAT = 1
REQUIRED_FILES = ("encoder.onnx", "decoder.onnx", "latent_space.npz", "golden.npz")
# Bounds what a manifest can make the server read into memory.
MAX_FILE_BYTES = 2 << 30

# A plain name: no slash, no leading dot, so that no file outside the bundle can be meant.
FileName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*\Z", max_length=100)]
Name = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9_-]*\Z", max_length=100)]
Version = Annotated[str, Meta(pattern=r"^[1-9][0-9]{0,17}\Z")]
Size = Annotated[int, Meta(ge=1, le=65536)]
Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
# The providers that a graph may have a form of its own for.
ProviderName = Literal["cuda", "cuda-fp16", "openvino", "cpu"]


class _Part(msgspec.Struct, frozen=True, kw_only=True):
    """Frozen, and open to keys that a later exporter may add."""


class ImageShape(_Part, frozen=True, kw_only=True):
    """The shape of the model's images."""

    height: Size
    width: Size
    channels: Literal[1, 3]


class TensorSpec(_Part, frozen=True, kw_only=True):
    """Element type and shape of a graph's input or output; "n" is the batch."""

    dtype: Literal["uint8", "float32"]
    shape: tuple[Literal["n"] | int, ...]

    @property
    def row(self) -> tuple[int, ...]:
        """The shape of one row."""
        return tuple(int(size) for size in self.shape[1:])


class GraphSpec(_Part, frozen=True, kw_only=True):
    """One graph: its file, its one input, its outputs in order.

    ``variants`` are files that compute the same, from the same inputs to the same outputs, in a form that one provider
    runs faster; every other provider takes ``file``.
    """

    file: FileName
    variants: dict[ProviderName, FileName] = {}
    inputs: dict[str, TensorSpec]
    outputs: dict[str, TensorSpec]

    @property
    def files(self) -> tuple[str, ...]:
        """Every file that this graph may be read from."""
        return (self.file, *self.variants.values())

    def file_for(self, provider: ProviderName) -> str:
        """The file that this provider takes."""
        return self.variants.get(provider, self.file)


class FileSpec(_Part, frozen=True, kw_only=True):
    """What a file must be."""

    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
    bytes: Annotated[int, Meta(ge=0, le=MAX_FILE_BYTES)]


class PreprocessingSpec(_Part, frozen=True, kw_only=True):
    """See armoire.wire.images.Preprocessing."""

    crop: Size | Literal["square"] | None
    resize: tuple[Size, Size]
    pad: Annotated[int, Meta(ge=0, le=4096)]


class AttributeSpec(_Part, frozen=True, kw_only=True):
    """A named direction: its length, and how well it tells members from the rest on the test split."""

    name: str
    norm: float
    auc: Annotated[float, Meta(ge=0, le=1)]
    positives: Count
    negatives: Count


class Manifest(_Part, frozen=True, kw_only=True):
    """manifest.json, as the exporter wrote it."""

    format: Literal[1]
    name: Name
    version: Version
    image: ImageShape
    latent_size: Size
    likelihood: Literal["bernoulli", "gaussian"]
    graphs: dict[Literal["encoder", "decoder"], GraphSpec]
    files: dict[FileName, FileSpec]
    preprocessing: PreprocessingSpec
    attributes: tuple[AttributeSpec, ...]
    priors: tuple[Literal["normal", "fitted"], ...]
    default_prior: str
    metrics: dict[str, float]
    training: dict[str, Any]
    licence: str

    def disagreement(self) -> str:
        """Say where its parts disagree; empty: nowhere."""
        missing = {"encoder", "decoder"} - set(self.graphs)
        if missing:
            return f"graphs lacks {', '.join(sorted(missing))}"
        wanted = {*REQUIRED_FILES, *(file for graph in self.graphs.values() for file in graph.files)}
        if unlisted := wanted - set(self.files):
            return f"files does not list {', '.join(sorted(unlisted))}"
        names = [attribute.name for attribute in self.attributes]
        if len(set(names)) < len(names):
            return "two attributes have one name"
        if self.default_prior not in self.priors:
            return f"default_prior {self.default_prior!r} is not among the priors {self.priors}"
        size = self.preprocessing.resize
        if tuple(edge + 2 * self.preprocessing.pad for edge in size) != (self.image.height, self.image.width):
            return "preprocessing does not end at the image's size"
        graphs = {str(name): graph for name, graph in self.graphs.items()}
        moments = dict.fromkeys(("mean", "log_variance"), self._point())
        decoded = {"pixels": self._image("uint8"), "means": self._image("float32")}
        for name, inputs, outputs in (
            ("encoder", {"pixels": self._image("uint8")}, moments),
            ("decoder", {"latents": self._point()}, decoded),
        ):
            graph = graphs[name]
            if graph.inputs != inputs or graph.outputs != outputs:
                return (
                    f"the {name}'s inputs and outputs do not agree with image {self.image} and "
                    f"latent_size {self.latent_size}"
                )
        return ""

    def _image(self, dtype: Literal["uint8", "float32"]) -> TensorSpec:
        return TensorSpec(dtype=dtype, shape=("n", self.image.height, self.image.width, self.image.channels))

    def _point(self) -> TensorSpec:
        return TensorSpec(dtype="float32", shape=("n", self.latent_size))


def parse(content: bytes) -> Manifest:
    """Read manifest.json.

    Raises:
        ValueError: what is wrong with it, in one line that begins with the place.
    """
    try:
        raw = msgspec.json.decode(content)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(f"manifest: {error}") from None
    try:
        manifest = msgspec.convert(raw, Manifest)
    except msgspec.ValidationError as error:
        raise ValueError(_placed(str(error), raw)) from None
    if fault := manifest.disagreement():
        raise ValueError(f"manifest: {fault}")
    return manifest


def _placed(fault: str, raw: Any) -> str:
    """Put the place first, and the name of the key where msgspec says "[...]" or "`key`"."""
    what, _, place = fault.partition(" - at ")
    parts = re.findall(r"[^.\[\]`$ ]+|\[\.\.\.\]|\[\d+\]", place.replace("`key` in", ""))
    keys = [part.strip("[]") for part in parts]
    if "`key` in" in place:
        keys.append("...")
    for depth, key in enumerate(keys):
        if key == "...":
            keys[depth] = _culprit(fault, raw, keys[:depth])
    return f"{'.'.join(keys) or 'manifest'}: {what}"


def _culprit(fault: str, raw: Any, path: list[str]) -> str:
    """Find the key of the mapping at ``path`` that is to blame: without the others the fault is the same."""
    mapping = raw
    for key in path:
        mapping = mapping[int(key) if isinstance(mapping, list) else key]
    whole = dict(mapping)
    for key, value in whole.items():
        mapping.clear()
        mapping[key] = value
        try:
            msgspec.convert(raw, Manifest)
        except msgspec.ValidationError as error:
            if str(error) == fault:
                return str(key)
        finally:
            mapping.clear()
            mapping.update(whole)
    return "..."
