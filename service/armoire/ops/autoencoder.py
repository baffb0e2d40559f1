"""The five operations on arrays, over the two queues, the bundle and latent arithmetic."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import cast

import numpy as np

from armoire.arrays import Floats, Pixels
from armoire.engine.batching import Batcher
from armoire.engine.golden import Deviation
from armoire.engine.tickets import Call
from armoire.errors import InvalidArgument, NotFound, quoted
from armoire.ops import latents
from armoire.ops.bundle import Bundle
from armoire.ops.manifest import Manifest

# Points are given directly, or as pixels that stand for their posterior mean.
Places = Floats | Pixels


@dataclass(frozen=True)
class Edit:
    """One move: ``strength`` x direction, where direction is a name, a vector [d], or two groups of points.

    The directions of the attributes ``orthogonal_to`` are projected out of it first.
    """

    direction: str | Floats | tuple[Places, Places]
    strength: float = 1.0
    unit: bool = False
    orthogonal_to: tuple[str, ...] = ()


class Autoencoder:
    """One served model."""

    def __init__(
        self,
        bundle: Bundle,
        queues: Mapping[str, Batcher],
        *,
        provider: str,
        precision: str,
        deviation: Deviation,
    ) -> None:
        """Put a bundle together with ``queues``: "encoder" and "decoder"."""
        self.bundle = bundle
        self.queues = queues
        self.provider = provider
        self.precision = precision
        self.deviation = deviation
        self._encoder, self._decoder = queues["encoder"], queues["decoder"]
        # Draws that take milliseconds stay off the event loop.
        self._drawing = ThreadPoolExecutor(1, thread_name_prefix="draw")

    @property
    def manifest(self) -> Manifest:
        """What the bundle says of the model."""
        return self.bundle.manifest

    @property
    def where(self) -> str:
        """NAME/VERSION."""
        return self.bundle.where

    @property
    def latent_size(self) -> int:
        """Dimensions of the latent space."""
        return self.manifest.latent_size

    async def encode(self, pixels: Pixels, call: Call) -> tuple[Floats, Floats]:
        """Give mean and log-variance of q(z | x): uint8 [n, h, w, c] -> float32 [n, d] twice."""
        mean, log_variance = await self._encoder.submit(pixels, call)
        return mean, log_variance

    async def decode(self, points: Floats, call: Call) -> Pixels:
        """Give the mean of p(x | z): float32 [n, d] -> uint8 [n, h, w, c]."""
        (pixels,) = await self._decoder.submit(points, call)
        return pixels

    async def sample(
        self, count: int, seed: int, temperature: float, prior: str, call: Call
    ) -> tuple[Pixels, Floats]:
        """Draw ``count`` points from the named prior (empty: the default one) and decode them.

        Raises:
            NotFound: no such prior.
            InvalidArgument: the temperature leads out of float32's range.
        """
        manifest = self.manifest
        prior = prior or manifest.default_prior
        if prior not in manifest.priors:
            raise NotFound(f"prior {quoted(prior)} is unknown", manifest.priors)
        if prior == "fitted" and self.bundle.mixture is not None:
            z = await asyncio.get_running_loop().run_in_executor(
                self._drawing, self.bundle.mixture.sample, count, seed, temperature
            )
        else:
            z = latents.sample_normal(count, self.latent_size, seed, temperature)
        _require_finite(z, "temperature")
        return await self.decode(z, call), z

    async def interpolate(
        self, start: Places, end: Places, steps: int, spherical: bool, call: Call
    ) -> tuple[Pixels, Floats]:
        """Walk from start to end: n places twice -> uint8 [n, steps, h, w, c] and float32 [n, steps, d]."""
        a, b = await self.points([start, end], len(start) * steps, call)
        walk = (latents.interpolate_spherical if spherical else latents.interpolate_linear)(a, b, steps)
        _require_finite(walk, "start")
        pixels = await self.decode(walk.reshape(-1, self.latent_size), call)
        return pixels.reshape(*walk.shape[:2], *pixels.shape[1:]), walk

    async def edit(self, places: Places, edits: Sequence[Edit], call: Call) -> tuple[Pixels, Floats]:
        """Move n places by the sum of the edits and decode them: uint8 [n, h, w, c] and float32 [n, d].

        Raises:
            NotFound: an attribute that the model does not know.
            InvalidArgument: a direction without length at unit scale, or that lies within those that it is to be
                orthogonal to, or a move out of float32's range.
        """
        for edit in edits:
            named = (edit.direction,) if isinstance(edit.direction, str) else ()
            for name in (*named, *edit.orthogonal_to):
                if name not in self.bundle.directions:
                    raise NotFound(f"attribute {quoted(name)} is unknown", self.bundle.directions)
        examples = [group for edit in edits if isinstance(edit.direction, tuple) for group in edit.direction]
        z, *means = await self.points([places, *examples], len(places), call)
        pairs = iter(zip(means[::2], means[1::2], strict=True))
        directions = []
        for index, edit in enumerate(edits):
            if isinstance(edit.direction, str):
                direction = self.bundle.directions[edit.direction]
            elif isinstance(edit.direction, tuple):
                direction = latents.difference_of_means(*next(pairs))
            else:
                direction = edit.direction
            if edit.orthogonal_to:
                others = np.stack([self.bundle.directions[name] for name in edit.orthogonal_to])
                direction = latents.orthogonal(direction, others)
                if not direction.any():
                    raise InvalidArgument(
                        "nothing is left of the direction: it lies within those that it is to be orthogonal to",
                        f"edits[{index}].orthogonal_to",
                    )
            if edit.unit:
                if not direction.any():
                    raise InvalidArgument("a direction of length 0 has no unit vector", f"edits[{index}]")
                direction = latents.unit(direction)
            directions.append(direction)
        moved = latents.shift(z, [edit.strength for edit in edits], directions)
        _require_finite(moved, "edits")
        return await self.decode(moved, call), moved

    async def points(self, places: Sequence[Places], decoded_rows: int, call: Call) -> list[Floats]:
        """Turn places into latent points, all that are pixels in one submission: together they run, or are refused.

        ``decoded_rows`` is what the call will ask of the decoder afterwards: it has to fit into the deadline too.
        """
        pixels = [cast(Pixels, place) for place in places if place.dtype == np.uint8]
        if not pixels:
            return [cast(Floats, place) for place in places]
        call.later = self._decoder.cost.seconds(decoded_rows)
        means, _ = await self.encode(pixels[0] if len(pixels) == 1 else np.concatenate(pixels), call)
        call.later = 0.0
        encoded = iter(np.split(means, np.cumsum([len(part) for part in pixels])[:-1]))
        return [next(encoded) if place.dtype == np.uint8 else cast(Floats, place) for place in places]

    def close(self) -> None:
        """Let go of the thread, once no call is in flight."""
        self._drawing.shutdown(wait=False, cancel_futures=True)


def _require_finite(z: Floats, field: str) -> None:
    if not np.isfinite(z).all():
        raise InvalidArgument("the points that this asks for lie outside float32's range", field)
