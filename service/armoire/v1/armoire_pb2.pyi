from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DataType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DATA_TYPE_UNSPECIFIED: _ClassVar[DataType]
    DATA_TYPE_UINT8: _ClassVar[DataType]
    DATA_TYPE_FLOAT32: _ClassVar[DataType]

class ImageFormat(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    IMAGE_FORMAT_UNSPECIFIED: _ClassVar[ImageFormat]
    IMAGE_FORMAT_PIXELS: _ClassVar[ImageFormat]
    IMAGE_FORMAT_PNG: _ClassVar[ImageFormat]
    IMAGE_FORMAT_JPEG: _ClassVar[ImageFormat]

class InterpolationPath(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    INTERPOLATION_PATH_UNSPECIFIED: _ClassVar[InterpolationPath]
    INTERPOLATION_PATH_LINEAR: _ClassVar[InterpolationPath]
    INTERPOLATION_PATH_SPHERICAL: _ClassVar[InterpolationPath]

class EditScale(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EDIT_SCALE_UNSPECIFIED: _ClassVar[EditScale]
    EDIT_SCALE_CLASS_DISTANCE: _ClassVar[EditScale]
    EDIT_SCALE_UNIT: _ClassVar[EditScale]
DATA_TYPE_UNSPECIFIED: DataType
DATA_TYPE_UINT8: DataType
DATA_TYPE_FLOAT32: DataType
IMAGE_FORMAT_UNSPECIFIED: ImageFormat
IMAGE_FORMAT_PIXELS: ImageFormat
IMAGE_FORMAT_PNG: ImageFormat
IMAGE_FORMAT_JPEG: ImageFormat
INTERPOLATION_PATH_UNSPECIFIED: InterpolationPath
INTERPOLATION_PATH_LINEAR: InterpolationPath
INTERPOLATION_PATH_SPHERICAL: InterpolationPath
EDIT_SCALE_UNSPECIFIED: EditScale
EDIT_SCALE_CLASS_DISTANCE: EditScale
EDIT_SCALE_UNIT: EditScale

class Tensor(_message.Message):
    __slots__ = ("data_type", "shape", "data")
    DATA_TYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    data_type: DataType
    shape: _containers.RepeatedScalarFieldContainer[int]
    data: bytes
    def __init__(self, data_type: _Optional[_Union[DataType, str]] = ..., shape: _Optional[_Iterable[int]] = ..., data: _Optional[bytes] = ...) -> None: ...

class EncodedImages(_message.Message):
    __slots__ = ("images",)
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    images: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, images: _Optional[_Iterable[bytes]] = ...) -> None: ...

class Images(_message.Message):
    __slots__ = ("pixels", "encoded")
    PIXELS_FIELD_NUMBER: _ClassVar[int]
    ENCODED_FIELD_NUMBER: _ClassVar[int]
    pixels: Tensor
    encoded: EncodedImages
    def __init__(self, pixels: _Optional[_Union[Tensor, _Mapping]] = ..., encoded: _Optional[_Union[EncodedImages, _Mapping]] = ...) -> None: ...

class Points(_message.Message):
    __slots__ = ("images", "latents")
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    LATENTS_FIELD_NUMBER: _ClassVar[int]
    images: Images
    latents: Tensor
    def __init__(self, images: _Optional[_Union[Images, _Mapping]] = ..., latents: _Optional[_Union[Tensor, _Mapping]] = ...) -> None: ...

class Examples(_message.Message):
    __slots__ = ("positives", "negatives")
    POSITIVES_FIELD_NUMBER: _ClassVar[int]
    NEGATIVES_FIELD_NUMBER: _ClassVar[int]
    positives: Points
    negatives: Points
    def __init__(self, positives: _Optional[_Union[Points, _Mapping]] = ..., negatives: _Optional[_Union[Points, _Mapping]] = ...) -> None: ...

class AttributeEdit(_message.Message):
    __slots__ = ("attribute", "vector", "examples", "strength", "scale", "orthogonal_to")
    ATTRIBUTE_FIELD_NUMBER: _ClassVar[int]
    VECTOR_FIELD_NUMBER: _ClassVar[int]
    EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    STRENGTH_FIELD_NUMBER: _ClassVar[int]
    SCALE_FIELD_NUMBER: _ClassVar[int]
    ORTHOGONAL_TO_FIELD_NUMBER: _ClassVar[int]
    attribute: str
    vector: Tensor
    examples: Examples
    strength: float
    scale: EditScale
    orthogonal_to: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, attribute: _Optional[str] = ..., vector: _Optional[_Union[Tensor, _Mapping]] = ..., examples: _Optional[_Union[Examples, _Mapping]] = ..., strength: _Optional[float] = ..., scale: _Optional[_Union[EditScale, str]] = ..., orthogonal_to: _Optional[_Iterable[str]] = ...) -> None: ...

class Attribute(_message.Message):
    __slots__ = ("name", "norm", "auc", "positives", "negatives")
    NAME_FIELD_NUMBER: _ClassVar[int]
    NORM_FIELD_NUMBER: _ClassVar[int]
    AUC_FIELD_NUMBER: _ClassVar[int]
    POSITIVES_FIELD_NUMBER: _ClassVar[int]
    NEGATIVES_FIELD_NUMBER: _ClassVar[int]
    name: str
    norm: float
    auc: float
    positives: int
    negatives: int
    def __init__(self, name: _Optional[str] = ..., norm: _Optional[float] = ..., auc: _Optional[float] = ..., positives: _Optional[int] = ..., negatives: _Optional[int] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("max_rows", "max_batch", "max_queue_rows", "max_message_mib")
    MAX_ROWS_FIELD_NUMBER: _ClassVar[int]
    MAX_BATCH_FIELD_NUMBER: _ClassVar[int]
    MAX_QUEUE_ROWS_FIELD_NUMBER: _ClassVar[int]
    MAX_MESSAGE_MIB_FIELD_NUMBER: _ClassVar[int]
    max_rows: int
    max_batch: int
    max_queue_rows: int
    max_message_mib: int
    def __init__(self, max_rows: _Optional[int] = ..., max_batch: _Optional[int] = ..., max_queue_rows: _Optional[int] = ..., max_message_mib: _Optional[int] = ...) -> None: ...

class Model(_message.Message):
    __slots__ = ("name", "version", "image_height", "image_width", "image_channels", "latent_size", "attributes", "priors", "default_prior", "provider", "precision", "limits", "metrics", "licence", "graphs", "deviation")
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    IMAGE_HEIGHT_FIELD_NUMBER: _ClassVar[int]
    IMAGE_WIDTH_FIELD_NUMBER: _ClassVar[int]
    IMAGE_CHANNELS_FIELD_NUMBER: _ClassVar[int]
    LATENT_SIZE_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    PRIORS_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_PRIOR_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    LICENCE_FIELD_NUMBER: _ClassVar[int]
    GRAPHS_FIELD_NUMBER: _ClassVar[int]
    DEVIATION_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    image_height: int
    image_width: int
    image_channels: int
    latent_size: int
    attributes: _containers.RepeatedCompositeFieldContainer[Attribute]
    priors: _containers.RepeatedScalarFieldContainer[str]
    default_prior: str
    provider: str
    precision: str
    limits: Limits
    metrics: _containers.ScalarMap[str, float]
    licence: str
    graphs: _containers.RepeatedCompositeFieldContainer[GraphStatistics]
    deviation: Deviation
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., image_height: _Optional[int] = ..., image_width: _Optional[int] = ..., image_channels: _Optional[int] = ..., latent_size: _Optional[int] = ..., attributes: _Optional[_Iterable[_Union[Attribute, _Mapping]]] = ..., priors: _Optional[_Iterable[str]] = ..., default_prior: _Optional[str] = ..., provider: _Optional[str] = ..., precision: _Optional[str] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ..., metrics: _Optional[_Mapping[str, float]] = ..., licence: _Optional[str] = ..., graphs: _Optional[_Iterable[_Union[GraphStatistics, _Mapping]]] = ..., deviation: _Optional[_Union[Deviation, _Mapping]] = ...) -> None: ...

class Deviation(_message.Message):
    __slots__ = ("equal_pixels", "close_pixels", "largest")
    EQUAL_PIXELS_FIELD_NUMBER: _ClassVar[int]
    CLOSE_PIXELS_FIELD_NUMBER: _ClassVar[int]
    LARGEST_FIELD_NUMBER: _ClassVar[int]
    equal_pixels: float
    close_pixels: float
    largest: int
    def __init__(self, equal_pixels: _Optional[float] = ..., close_pixels: _Optional[float] = ..., largest: _Optional[int] = ...) -> None: ...

class GraphStatistics(_message.Message):
    __slots__ = ("graph", "largest_batch", "longest_delay_ms", "lanes", "costs")
    GRAPH_FIELD_NUMBER: _ClassVar[int]
    LARGEST_BATCH_FIELD_NUMBER: _ClassVar[int]
    LONGEST_DELAY_MS_FIELD_NUMBER: _ClassVar[int]
    LANES_FIELD_NUMBER: _ClassVar[int]
    COSTS_FIELD_NUMBER: _ClassVar[int]
    graph: str
    largest_batch: int
    longest_delay_ms: float
    lanes: int
    costs: _containers.RepeatedCompositeFieldContainer[BatchCost]
    def __init__(self, graph: _Optional[str] = ..., largest_batch: _Optional[int] = ..., longest_delay_ms: _Optional[float] = ..., lanes: _Optional[int] = ..., costs: _Optional[_Iterable[_Union[BatchCost, _Mapping]]] = ...) -> None: ...

class BatchCost(_message.Message):
    __slots__ = ("rows", "milliseconds")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    MILLISECONDS_FIELD_NUMBER: _ClassVar[int]
    rows: int
    milliseconds: float
    def __init__(self, rows: _Optional[int] = ..., milliseconds: _Optional[float] = ...) -> None: ...

class ListModelsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListModelsResponse(_message.Message):
    __slots__ = ("models",)
    MODELS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[Model]
    def __init__(self, models: _Optional[_Iterable[_Union[Model, _Mapping]]] = ...) -> None: ...

class EncodeRequest(_message.Message):
    __slots__ = ("model", "version", "images")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    images: Images
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ..., images: _Optional[_Union[Images, _Mapping]] = ...) -> None: ...

class EncodeResponse(_message.Message):
    __slots__ = ("means", "log_variances")
    MEANS_FIELD_NUMBER: _ClassVar[int]
    LOG_VARIANCES_FIELD_NUMBER: _ClassVar[int]
    means: Tensor
    log_variances: Tensor
    def __init__(self, means: _Optional[_Union[Tensor, _Mapping]] = ..., log_variances: _Optional[_Union[Tensor, _Mapping]] = ...) -> None: ...

class DecodeRequest(_message.Message):
    __slots__ = ("model", "version", "latents", "image_format")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    LATENTS_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FORMAT_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    latents: Tensor
    image_format: ImageFormat
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ..., latents: _Optional[_Union[Tensor, _Mapping]] = ..., image_format: _Optional[_Union[ImageFormat, str]] = ...) -> None: ...

class DecodeResponse(_message.Message):
    __slots__ = ("images",)
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    images: Images
    def __init__(self, images: _Optional[_Union[Images, _Mapping]] = ...) -> None: ...

class SampleRequest(_message.Message):
    __slots__ = ("model", "version", "count", "seed", "temperature", "prior", "image_format")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    PRIOR_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FORMAT_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    count: int
    seed: int
    temperature: float
    prior: str
    image_format: ImageFormat
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ..., count: _Optional[int] = ..., seed: _Optional[int] = ..., temperature: _Optional[float] = ..., prior: _Optional[str] = ..., image_format: _Optional[_Union[ImageFormat, str]] = ...) -> None: ...

class SampleResponse(_message.Message):
    __slots__ = ("images", "latents", "seed")
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    LATENTS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    images: Images
    latents: Tensor
    seed: int
    def __init__(self, images: _Optional[_Union[Images, _Mapping]] = ..., latents: _Optional[_Union[Tensor, _Mapping]] = ..., seed: _Optional[int] = ...) -> None: ...

class InterpolateRequest(_message.Message):
    __slots__ = ("model", "version", "start", "end", "steps", "path", "image_format")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FORMAT_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    start: Points
    end: Points
    steps: int
    path: InterpolationPath
    image_format: ImageFormat
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ..., start: _Optional[_Union[Points, _Mapping]] = ..., end: _Optional[_Union[Points, _Mapping]] = ..., steps: _Optional[int] = ..., path: _Optional[_Union[InterpolationPath, str]] = ..., image_format: _Optional[_Union[ImageFormat, str]] = ...) -> None: ...

class InterpolateResponse(_message.Message):
    __slots__ = ("images", "latents")
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    LATENTS_FIELD_NUMBER: _ClassVar[int]
    images: Images
    latents: Tensor
    def __init__(self, images: _Optional[_Union[Images, _Mapping]] = ..., latents: _Optional[_Union[Tensor, _Mapping]] = ...) -> None: ...

class AddAttributeRequest(_message.Message):
    __slots__ = ("model", "version", "points", "edits", "image_format")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    POINTS_FIELD_NUMBER: _ClassVar[int]
    EDITS_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FORMAT_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    points: Points
    edits: _containers.RepeatedCompositeFieldContainer[AttributeEdit]
    image_format: ImageFormat
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ..., points: _Optional[_Union[Points, _Mapping]] = ..., edits: _Optional[_Iterable[_Union[AttributeEdit, _Mapping]]] = ..., image_format: _Optional[_Union[ImageFormat, str]] = ...) -> None: ...

class AddAttributeResponse(_message.Message):
    __slots__ = ("images", "latents")
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    LATENTS_FIELD_NUMBER: _ClassVar[int]
    images: Images
    latents: Tensor
    def __init__(self, images: _Optional[_Union[Images, _Mapping]] = ..., latents: _Optional[_Union[Tensor, _Mapping]] = ...) -> None: ...
