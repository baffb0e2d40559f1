"""One short method for each RPC: unpack, call, pack.

A method gives its reply as a message, or as the bytes of one. The interceptor hands every method a Call where gRPC has
its context: what a method may know of its caller is how long it may take and what it may ask for. Raising an
ArmoireError is how a method answers with another status.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterator, Mapping, Sequence

import msgspec
from google.protobuf.descriptor import EnumDescriptor

from armoire.arrays import Floats, Pixels
from armoire.engine.batching import Batcher
from armoire.errors import InvalidArgument, LimitExceeded, Unavailable
from armoire.ops.autoencoder import Autoencoder, Edit, Places
from armoire.ops.catalogue import Catalogue
from armoire.v1 import armoire_pb2 as pb
from armoire.v1 import armoire_pb2_grpc as pb_grpc
from armoire.wire import framing, tensors
from armoire.wire.caller import IncomingCall
from armoire.wire.image_files import ImageFiles

# More directions than this in one move are a mistake.
MAX_EDITS = 64


class LatentServicer(pb_grpc.LatentServiceServicer):
    """armoire.v1.LatentService."""

    def __init__(self, limits: pb.Limits, threads: int) -> None:
        """Answer UNAVAILABLE until ``catalogue`` is set.

        Args:
            limits: what the server publishes; max_rows is held here.
            threads: how many image files are decoded or encoded side by side.
        """
        self.catalogue: Catalogue | None = None
        self._limits = limits
        self._files = ImageFiles(threads, limits.max_queue_rows)

    async def ListModels(self, request: pb.ListModelsRequest, call: IncomingCall) -> pb.ListModelsResponse:  # noqa: N802, ARG002, D102
        if self.catalogue is None:
            raise Unavailable("the models are warming up; try again in a second")
        models = [model for model in self.catalogue if call.caller.may_use(model.manifest.name)]
        return pb.ListModelsResponse(models=[self._describe(model) for model in models])

    async def Encode(self, request: pb.EncodeRequest, call: IncomingCall) -> bytes:  # noqa: N802, D102
        model = self._model(request, call)
        self._admit(_image_rows(request.images), "images", call)
        (pixels,) = await self._pixels({"images": request.images}, model)
        means, log_variances = await model.encode(pixels, call)
        reply = pb.EncodeResponse
        return framing.serialize(
            reply(),
            ([reply.MEANS_FIELD_NUMBER], means),
            ([reply.LOG_VARIANCES_FIELD_NUMBER], log_variances),
        )

    async def Decode(self, request: pb.DecodeRequest, call: IncomingCall) -> bytes:  # noqa: N802, D102
        model = self._model(request, call)
        _check_format(request.image_format)
        self._admit(tensors.rows(request.latents), "latents", call)
        z = tensors.to_floats(request.latents, ("n", model.latent_size), "latents")
        return await self._reply(pb.DecodeResponse(), await model.decode(z, call), request.image_format)

    async def Sample(self, request: pb.SampleRequest, call: IncomingCall) -> bytes:  # noqa: N802, D102
        model = self._model(request, call)
        _check_format(request.image_format)
        _at_least(request.count, 1, "count")
        self._admit(request.count, "count", call)
        temperature = request.temperature if request.HasField("temperature") else 1.0
        if not (math.isfinite(temperature) and temperature >= 0):
            raise InvalidArgument(f"{temperature} came; a finite number from 0 is wanted", "temperature")
        seed = request.seed if request.HasField("seed") else secrets.randbits(64)
        pixels, z = await model.sample(request.count, seed, temperature, request.prior, call)
        reply = pb.SampleResponse(latents=tensors.to_tensor(z), seed=seed)
        return await self._reply(reply, pixels, request.image_format)

    async def Interpolate(self, request: pb.InterpolateRequest, call: IncomingCall) -> bytes:  # noqa: N802, D102
        model = self._model(request, call)
        _check_format(request.image_format)
        _check_enum(request.path, pb.InterpolationPath.DESCRIPTOR, "path")
        _at_least(request.steps, 2, "steps")
        rows = max(_point_rows(request.start), _point_rows(request.end), 1) * request.steps
        self._admit(rows, "steps", call)
        start, end = await self._places({"start": request.start, "end": request.end}, model)
        if len(start) != len(end):
            raise InvalidArgument(f"{len(end)} points came; start has {len(start)}", "end")
        spherical = request.path == pb.INTERPOLATION_PATH_SPHERICAL
        pixels, z = await model.interpolate(start, end, request.steps, spherical, call)
        reply = pb.InterpolateResponse(latents=tensors.to_tensor(z))
        return await self._reply(reply, pixels, request.image_format)

    async def AddAttribute(self, request: pb.AddAttributeRequest, call: IncomingCall) -> bytes:  # noqa: N802, D102
        model = self._model(request, call)
        _check_format(request.image_format)
        if not request.edits:
            raise InvalidArgument("none came; at least one is wanted", "edits")
        if len(request.edits) > MAX_EDITS:
            raise InvalidArgument(f"{len(request.edits)} came; at most {MAX_EDITS} are taken", "edits")
        kept = sum(len(edit.orthogonal_to) for edit in request.edits)
        if kept > MAX_EDITS:
            raise InvalidArgument(
                f"{kept} came over all edits; at most {MAX_EDITS} are taken", "edits.orthogonal_to"
            )
        named = {f"edits[{index}]": edit for index, edit in enumerate(request.edits)}
        rows = _point_rows(request.points)
        self._limit(rows, "points")
        for field, edit in named.items():
            rows += _point_rows(edit.examples.positives) + _point_rows(edit.examples.negatives)
            self._limit(rows, f"{field}.examples")
        call.caller.take(rows)
        points = {"points": request.points}
        for field, edit in named.items():
            _check_edit(edit, field)
            if edit.WhichOneof("direction") == "examples":
                points[f"{field}.examples.positives"] = edit.examples.positives
                points[f"{field}.examples.negatives"] = edit.examples.negatives
        places, *examples = await self._places(points, model)
        groups = iter(examples)
        edits = [_edit(edit, field, model.latent_size, groups) for field, edit in named.items()]
        pixels, z = await model.edit(places, edits, call)
        reply = pb.AddAttributeResponse(latents=tensors.to_tensor(z))
        return await self._reply(reply, pixels, request.image_format)

    def close(self) -> None:
        """Let go of the threads, once no call is in flight."""
        self._files.close()

    def _model(self, request: _AnyRequest, call: IncomingCall) -> Autoencoder:
        if self.catalogue is None:
            raise Unavailable("the models are warming up; try again in a second")
        call.caller.require(request.model or self.catalogue.default_model)
        model = self.catalogue.find(request.model, request.version, call.caller.may_use)
        call.model = model.where
        return model

    def _admit(self, rows: int, field: str, call: IncomingCall) -> None:
        """Hold a call's rows to the server's limit and to its caller's rate, before any work."""
        self._limit(rows, field)
        call.caller.take(rows)

    def _limit(self, rows: int, field: str) -> None:
        if rows > self._limits.max_rows:
            allowed = self._limits.max_rows
            raise LimitExceeded(
                f"{rows} rows, more than max_rows = {allowed}; send them in several calls", field
            )

    async def _places(self, points: Mapping[str, pb.Points], model: Autoencoder) -> list[Places]:
        """Read the points of one call, each by the name of its field."""
        places: dict[str, Places] = {}
        images = {}
        for field, message in points.items():
            match message.WhichOneof("content"):
                case "latents":
                    latents = tensors.to_floats(message.latents, ("n", model.latent_size), f"{field}.latents")
                    places[field] = latents
                case "images":
                    images[f"{field}.images"] = message.images
                case _:
                    raise InvalidArgument("neither latents nor images is set; one of them is wanted", field)
        pixels = iter(await self._pixels(images, model))
        return [places[field] if field in places else next(pixels) for field in points]

    async def _pixels(self, images: Mapping[str, pb.Images], model: Autoencoder) -> list[Pixels]:
        """Read the images of one call, each by the name of its field; the files among them at last and together."""
        shape = model.bundle.image_shape
        pixels: dict[str, Pixels] = {}
        files: dict[str, Sequence[bytes]] = {}
        for field, message in images.items():
            match message.WhichOneof("content"):
                case "pixels":
                    pixels[field] = tensors.to_pixels(message.pixels, ("n", *shape), f"{field}.pixels")
                case "encoded":
                    name = f"{field}.encoded.images"
                    if not message.encoded.images:
                        raise InvalidArgument("no file came; at least one is wanted", name)
                    files[name] = message.encoded.images
                case _:
                    raise InvalidArgument("neither pixels nor encoded is set; one of them is wanted", field)
        decoded = iter(await self._files.decode(files, shape, model.manifest.preprocessing) if files else ())
        return [pixels[field] if field in pixels else next(decoded) for field in images]

    async def _reply(self, reply: _WithImages, pixels: Pixels, image_format: pb.ImageFormat) -> bytes:
        """Serialize ``reply`` with its images, uint8 [..., h, w, c]."""
        if image_format in (pb.IMAGE_FORMAT_UNSPECIFIED, pb.IMAGE_FORMAT_PIXELS):
            path = (reply.IMAGES_FIELD_NUMBER, pb.Images.PIXELS_FIELD_NUMBER)
            return framing.serialize(reply, (path, pixels))
        flat = pixels.reshape(-1, *pixels.shape[-3:])
        reply.images.encoded.images.extend(await self._files.encode(flat, image_format))
        return reply.SerializeToString()

    def _describe(self, model: Autoencoder) -> pb.Model:
        manifest = model.manifest
        return pb.Model(
            name=manifest.name,
            version=manifest.version,
            image_height=manifest.image.height,
            image_width=manifest.image.width,
            image_channels=manifest.image.channels,
            latent_size=manifest.latent_size,
            attributes=[
                pb.Attribute(**msgspec.structs.asdict(attribute)) for attribute in manifest.attributes
            ],
            priors=manifest.priors,
            default_prior=manifest.default_prior,
            provider=model.provider,
            precision=model.precision,
            limits=self._limits,
            metrics=manifest.metrics,
            licence=manifest.licence,
            deviation=pb.Deviation(
                equal_pixels=model.deviation.equal,
                close_pixels=model.deviation.close,
                largest=model.deviation.largest,
            ),
            graphs=[_statistics(name, queue) for name, queue in model.queues.items()],
        )


_AnyRequest = (
    pb.EncodeRequest | pb.DecodeRequest | pb.SampleRequest | pb.InterpolateRequest | pb.AddAttributeRequest
)

_WithImages = pb.DecodeResponse | pb.SampleResponse | pb.InterpolateResponse | pb.AddAttributeResponse


def _statistics(name: str, queue: Batcher) -> pb.GraphStatistics:
    return pb.GraphStatistics(
        graph=name,
        largest_batch=queue.cost.max_batch,
        longest_delay_ms=queue.longest_delay * 1e3,
        lanes=queue.lanes,
        costs=[
            pb.BatchCost(rows=rows, milliseconds=seconds * 1e3)
            for rows, seconds in queue.cost.measured.items()
        ],
    )


def _image_rows(message: pb.Images) -> int:
    if message.WhichOneof("content") == "encoded":
        return len(message.encoded.images)
    return tensors.rows(message.pixels)


def _point_rows(points: pb.Points) -> int:
    if points.WhichOneof("content") == "images":
        return _image_rows(points.images)
    return tensors.rows(points.latents)


def _at_least(value: int, least: int, field: str) -> None:
    if value < least:
        raise InvalidArgument(f"{value} came; at least {least} is wanted", field)


def _check_edit(edit: pb.AttributeEdit, field: str) -> None:
    _check_enum(edit.scale, pb.EditScale.DESCRIPTOR, f"{field}.scale")
    if not math.isfinite(edit.strength):
        raise InvalidArgument(f"{edit.strength} came; a finite number is wanted", f"{field}.strength")
    if edit.WhichOneof("direction") is None:
        raise InvalidArgument("none of attribute, vector, examples is set; one is wanted", field)


def _edit(edit: pb.AttributeEdit, field: str, latent_size: int, examples: Iterator[Places]) -> Edit:
    """Read an edit that was checked; ``examples`` gives positives and negatives where it has some."""
    direction: str | Floats | tuple[Places, Places]
    match edit.WhichOneof("direction"):
        case "attribute":
            direction = edit.attribute
        case "vector":
            direction = tensors.to_floats(edit.vector, (latent_size,), f"{field}.vector")
        case _:
            direction = (next(examples), next(examples))
    strength = edit.strength if edit.HasField("strength") else 1.0
    unit = edit.scale == pb.EDIT_SCALE_UNIT
    return Edit(direction, strength, unit=unit, orthogonal_to=tuple(edit.orthogonal_to))


def _check_format(image_format: int) -> None:
    _check_enum(image_format, pb.ImageFormat.DESCRIPTOR, "image_format")


def _check_enum(value: int, descriptor: EnumDescriptor, field: str) -> None:
    if value not in descriptor.values_by_number:
        raise InvalidArgument(f"{value} came; {', '.join(descriptor.values_by_name)} are known", field)
