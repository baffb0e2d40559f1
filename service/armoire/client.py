"""A client for people who think in arrays: numpy in, numpy out.

Images are uint8 [n, height, width, channels]; latent points are float32 [n, latent_size]. Wherever points
are wanted, images can stand for their posterior means, as pixels or as the bytes of PNG and JPEG files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Self, TypeVar

import grpc
import numpy as np

from armoire import errors
from armoire.arrays import Array, Floats, Pixels
from armoire.v1 import armoire_pb2 as pb
from armoire.v1 import armoire_pb2_grpc as pb_grpc
from armoire.wire.channel import bearer, connect, to_error
from armoire.wire.tensors import DTYPES, to_tensor

__all__ = ["Client", "Direction", "Model", "Posterior", "Samples", "Traversal"]

PATHS = {"linear": pb.INTERPOLATION_PATH_LINEAR, "spherical": pb.INTERPOLATION_PATH_SPHERICAL}

Request = TypeVar("Request")
Reply = TypeVar("Reply")
# Latents, pixels, or the bytes of image files.
Points = Array | Sequence[bytes]
# A named attribute, a vector [d], or (positives, negatives).
Direction = str | Array | tuple[Points, Points]


class Model(NamedTuple):
    """What ListModels says of one model."""

    name: str
    version: str
    image_shape: tuple[int, int, int]
    latent_size: int
    attributes: dict[str, dict[str, float]]
    priors: tuple[str, ...]
    default_prior: str
    provider: str
    precision: str
    close_pixels: float | None
    limits: dict[str, int]
    metrics: dict[str, float]
    licence: str


class Posterior(NamedTuple):
    """q(z | x) of n images: float32 [n, d] twice."""

    means: Floats
    log_variances: Floats


class Samples(NamedTuple):
    """New images uint8 [n, h, w, c], their points float32 [n, d], and the seed that gives them again."""

    images: Pixels
    latents: Floats
    seed: int


class Traversal(NamedTuple):
    """Images and the latent points that they were decoded from, first axes alike."""

    images: Pixels
    latents: Floats


class Client:
    """A connection to one Armoire service, which may be many replicas behind one name. Thread-safe."""

    def __init__(
        self,
        address: str = "127.0.0.1:50051",
        *,
        timeout: float | None = 30.0,
        credentials: grpc.ChannelCredentials | None = None,
        token: str | None = None,
        model: str = "",
        version: str = "",
    ) -> None:
        """Connect at the first call.

        Args:
            address: HOST:PORT or any gRPC target, such as dns:///armoire:50051.
            timeout: seconds for each call, retries included; None waits for ever.
            credentials: as grpc.ssl_channel_credentials gives them; None speaks plain text.
            token: a bearer token, of printable ASCII characters without spaces.
            model: empty takes the server's default.
            version: empty takes the newest.

        Raises:
            InvalidArgument: a token that cannot be sent. It is not shown.
        """
        self._channel = connect(address, credentials)
        self._stub = pb_grpc.LatentServiceStub(self._channel)
        self._timeout = timeout
        self._metadata = bearer(token)
        self._which = {"model": model, "version": version}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def models(self) -> list[Model]:
        """List what is served, the default model first."""
        reply = self._call(self._stub.ListModels, pb.ListModelsRequest())
        return [_model(model) for model in reply.models]

    def encode(self, images: Points) -> Posterior:
        """Encode images, given as pixels or as files."""
        reply = self._call(self._stub.Encode, pb.EncodeRequest(images=_images(images), **self._which))
        return Posterior(_array(reply.means), _array(reply.log_variances))

    def decode(self, latents: Array) -> Pixels:
        """Decode latent points [n, d]."""
        request = pb.DecodeRequest(latents=_latents(latents), **self._which)
        return _array(self._call(self._stub.Decode, request).images.pixels)

    def sample(
        self, count: int, *, seed: int | None = None, temperature: float | None = None, prior: str = ""
    ) -> Samples:
        """Draw ``count`` new images; the same seed gives the same images."""
        _check_range(count, 1 << 31, "count")
        if seed is not None:
            _check_range(seed, 1 << 64, "seed")
        request = pb.SampleRequest(
            count=count, seed=seed, temperature=temperature, prior=prior, **self._which
        )
        reply = self._call(self._stub.Sample, request)
        return Samples(_array(reply.images.pixels), _array(reply.latents), reply.seed)

    def interpolate(self, start: Points, end: Points, steps: int = 8, path: str = "linear") -> Traversal:
        """Walk from each start to its end: images [n, steps, h, w, c]; path is linear or spherical."""
        _check_range(steps, 1 << 31, "steps")
        if path not in PATHS:
            raise errors.InvalidArgument(f"{path!r} came; {' or '.join(PATHS)} is wanted", "path")
        request = pb.InterpolateRequest(
            start=_points(start), end=_points(end), steps=steps, path=PATHS[path], **self._which
        )
        reply = self._call(self._stub.Interpolate, request)
        return Traversal(_array(reply.images.pixels), _array(reply.latents))

    def add_attribute(
        self,
        points: Points,
        direction: Direction | Mapping[str, float],
        strength: float = 1.0,
        *,
        unit: bool = False,
        orthogonal_to: Sequence[str] = (),
    ) -> Traversal:
        """Move points along a direction, or along several named attributes at once, and decode them.

        Args:
            points: what is moved.
            direction: an attribute's name, a vector [d], a pair (positives, negatives) of example points,
                or a mapping from attribute names to strengths.
            strength: for a named attribute 1 is the distance between the class means.
            unit: bring the direction to length 1 first.
            orthogonal_to: names of attributes that the move is to leave alone; they are projected out of it.
        """
        if isinstance(orthogonal_to, str):  # else its letters would be the names
            orthogonal_to = [orthogonal_to]
        moves = direction.items() if isinstance(direction, Mapping) else [(direction, strength)]
        scale = pb.EDIT_SCALE_UNIT if unit else pb.EDIT_SCALE_CLASS_DISTANCE
        edits = [
            pb.AttributeEdit(strength=amount, scale=scale, orthogonal_to=orthogonal_to, **_direction(move))
            for move, amount in moves
        ]
        request = pb.AddAttributeRequest(points=_points(points), edits=edits, **self._which)
        reply = self._call(self._stub.AddAttribute, request)
        return Traversal(_array(reply.images.pixels), _array(reply.latents))

    def _call(self, method: Callable[..., Reply], request: object) -> Reply:
        try:
            return method(request, timeout=self._timeout, metadata=self._metadata)
        except grpc.RpcError as error:
            raise to_error(error) from None


def _check_range(value: int, end: int, field: str) -> None:
    """Tell what protobuf would raise ValueError for."""
    if not 0 <= value < end:
        raise errors.InvalidArgument(f"{value} came; 0 to {end - 1} is wanted", field)


def _array(tensor: pb.Tensor) -> Array:
    # frombuffer gives a view of the reply's bytes, which nobody may write to; callers expect their own array.
    return np.frombuffer(tensor.data, DTYPES[tensor.data_type]).reshape(tuple(tensor.shape)).copy()


def _latents(values: Array) -> pb.Tensor:
    return to_tensor(np.asarray(values, np.float32))


def _images(images: Points) -> pb.Images:
    if isinstance(images, np.ndarray):
        if images.dtype != np.uint8:
            raise errors.InvalidArgument(f"{images.dtype} came; uint8 pixels are wanted", "images")
        return pb.Images(pixels=to_tensor(images))
    return pb.Images(encoded=pb.EncodedImages(images=images))


def _points(points: Points) -> pb.Points:
    if isinstance(points, np.ndarray) and points.dtype != np.uint8:
        return pb.Points(latents=_latents(points))
    return pb.Points(images=_images(points))


def _direction(direction: Direction) -> dict[str, Any]:
    if isinstance(direction, str):
        return {"attribute": direction}
    if isinstance(direction, tuple):
        positives, negatives = direction
        return {"examples": pb.Examples(positives=_points(positives), negatives=_points(negatives))}
    return {"vector": _latents(direction)}


def _model(model: pb.Model) -> Model:
    return Model(
        name=model.name,
        version=model.version,
        image_shape=(model.image_height, model.image_width, model.image_channels),
        latent_size=model.latent_size,
        attributes={
            a.name: {"norm": a.norm, "auc": a.auc, "positives": a.positives, "negatives": a.negatives}
            for a in model.attributes
        },
        priors=tuple(model.priors),
        default_prior=model.default_prior,
        provider=model.provider,
        precision=model.precision,
        close_pixels=model.deviation.close_pixels if model.HasField("deviation") else None,
        limits={field.name: value for field, value in model.limits.ListFields()},
        metrics=dict(model.metrics),
        licence=model.licence,
    )
