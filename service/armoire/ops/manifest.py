"""manifest.json: what a bundle says of itself, and the rules that it keeps."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

FORMAT = 1
REQUIRED_FILES = ("encoder.onnx", "decoder.onnx", "latent_space.npz", "golden.npz")
# Bounds what a manifest can make the server read into memory.
MAX_FILE_BYTES = 2 << 30

# A plain name: no slash, no leading dot, so that no file outside the bundle can be meant.
FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$", max_length=100)]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=100)]
Version = Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]{0,17}$")]
Size = Annotated[int, Field(ge=1, le=65536)]
Count = Annotated[int, Field(ge=0, lt=2**63)]
# The providers that a graph may have a form of its own for.
ProviderName = Literal["cuda", "cuda-fp16", "openvino", "cpu"]


class _Part(BaseModel):
    """Frozen, and open to keys that a later exporter may add."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class ImageShape(_Part):
    """The shape of the model's images."""

    height: Size
    width: Size
    channels: Literal[1, 3]


class TensorSpec(_Part):
    """Element type and shape of a graph's input or output; "n" is the batch."""

    dtype: Literal["uint8", "float32"]
    shape: tuple[Literal["n"] | int, ...]

    @property
    def row(self) -> tuple[int, ...]:
        """The shape of one row."""
        return tuple(int(size) for size in self.shape[1:])


class GraphSpec(_Part):
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


class FileSpec(_Part):
    """What a file must be."""

    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    bytes: Annotated[int, Field(ge=0, le=MAX_FILE_BYTES)]


class PreprocessingSpec(_Part):
    """See armoire.wire.images.Preprocessing."""

    crop: Size | None
    resize: tuple[Size, Size]
    pad: Annotated[int, Field(ge=0, le=4096)]


class AttributeSpec(_Part):
    """A named direction: its length, and how well it tells members from the rest on the test split."""

    name: str
    norm: float
    auc: Annotated[float, Field(ge=0, le=1)]
    positives: Count
    negatives: Count


class Manifest(_Part):
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

    @model_validator(mode="after")
    def _agree(self) -> Self:
        missing = {"encoder", "decoder"} - set(self.graphs)
        if missing:
            raise ValueError(f"graphs lacks {', '.join(sorted(missing))}")
        wanted = {*REQUIRED_FILES, *(file for graph in self.graphs.values() for file in graph.files)}
        if unlisted := wanted - set(self.files):
            raise ValueError(f"files does not list {', '.join(sorted(unlisted))}")
        names = [attribute.name for attribute in self.attributes]
        if len(set(names)) < len(names):
            raise ValueError("two attributes have one name")
        if self.default_prior not in self.priors:
            raise ValueError(f"default_prior {self.default_prior!r} is not among the priors {self.priors}")
        size = self.preprocessing.resize
        if tuple(edge + 2 * self.preprocessing.pad for edge in size) != (self.image.height, self.image.width):
            raise ValueError("preprocessing does not end at the image's size")
        self._check_graph(
            "encoder",
            {"pixels": self._image("uint8")},
            dict.fromkeys(("mean", "log_variance"), self._point()),
        )
        self._check_graph(
            "decoder",
            {"latents": self._point()},
            {"pixels": self._image("uint8"), "means": self._image("float32")},
        )
        return self

    def _image(self, dtype: Literal["uint8", "float32"]) -> TensorSpec:
        return TensorSpec(dtype=dtype, shape=("n", self.image.height, self.image.width, self.image.channels))

    def _point(self) -> TensorSpec:
        return TensorSpec(dtype="float32", shape=("n", self.latent_size))

    def _check_graph(
        self,
        name: Literal["encoder", "decoder"],
        inputs: dict[str, TensorSpec],
        outputs: dict[str, TensorSpec],
    ) -> None:
        graph = self.graphs[name]
        if graph.inputs != inputs or graph.outputs != outputs:
            raise ValueError(
                f"the {name}'s inputs and outputs do not agree with image {self.image} and "
                f"latent_size {self.latent_size}"
            )
