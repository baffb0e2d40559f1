"""What each verb of the command line does. Each takes the parsed arguments and gives the exit status."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path

import grpc
import numpy as np

from armoire import pictures
from armoire.arrays import Array
from armoire.client import Client, Points
from armoire.errors import ArmoireError, InvalidArgument, StartError
from armoire.files import replacing
from armoire.load.flags import to_plan
from armoire.wire.channel import bearer, to_error
from armoire.wire.credentials import read_credentials

EXIT_INTERRUPTED = 130  # as a shell gives it after Ctrl-C


def health(arguments: argparse.Namespace) -> int:
    """Print SERVING or NOT_SERVING; status 0 or 1."""
    # grpc.health.v1 by hand: its Python package is the server's, and the two messages are a byte or two.
    # A plain channel: one that balances by health would not let a NOT_SERVING answer through.
    credentials = _credentials(arguments)
    with (
        grpc.secure_channel(arguments.address, credentials)
        if credentials
        else grpc.insecure_channel(arguments.address)
    ) as channel:
        check: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(
            "/grpc.health.v1.Health/Check"
        )
        try:
            reply = check(b"", timeout=arguments.timeout, metadata=bearer(_token(arguments)))
        except grpc.RpcError as error:
            raise to_error(error) from None
    serving = reply == b"\x08\x01"
    print("SERVING" if serving else "NOT_SERVING")
    return 0 if serving else 1


def models(arguments: argparse.Namespace) -> int:
    """Print what is served."""
    with _client(arguments) as client:
        for model in client.models():
            height, width, channels = model.image_shape
            print(
                f"{model.name} version {model.version}: {height}x{width}x{channels}, {model.latent_size} dimensions"
            )
            share = model.close_pixels
            as_exported = (
                "" if share is None else f"; {share:.2%} of the pixels within 1 of 255 of those at export"
            )
            print(f"  runs on     {model.provider}, {model.precision}{as_exported}")
            print(f"  priors      {', '.join(model.priors)} (default: {model.default_prior})")
            print(f"  attributes  {', '.join(model.attributes) or 'none'}")
            print(f"  measured    {', '.join(f'{k} {v:.4g}' for k, v in sorted(model.metrics.items()))}")
            print(f"  limits      {', '.join(f'{k} {v}' for k, v in model.limits.items())}")
            print(f"  licence     {model.licence}")
    return 0


def sample(arguments: argparse.Namespace) -> int:
    """Write new images."""
    with _client(arguments) as client:
        drawn = client.sample(
            arguments.count, seed=arguments.seed, temperature=arguments.temperature, prior=arguments.prior
        )
    _write(arguments, drawn.images, drawn.latents)
    print(f"{arguments.out}: {len(drawn.images)} images, seed {drawn.seed}")
    return 0


def encode(arguments: argparse.Namespace) -> int:
    """Write posteriors."""
    with _client(arguments) as client:
        posterior = client.encode(_read(arguments.images))
    with replacing(arguments.out) as file:
        np.savez(file, means=posterior.means, log_variances=posterior.log_variances)
    n, d = posterior.means.shape
    print(f"{arguments.out}: means and log_variances of {n} images in {d} dimensions")
    return 0


def decode(arguments: argparse.Namespace) -> int:
    """Write the images at latent points."""
    try:
        with arguments.points.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            z = loaded if isinstance(loaded, np.ndarray) else loaded["means"]
        if z.dtype.kind not in "fiu":
            raise ValueError(f"{z.dtype} came; real numbers are wanted")
        z = z.astype(np.float32)
    except OSError:
        raise
    except Exception as error:  # of a damaged file numpy and zlib raise what they like, MemoryError among it
        raise InvalidArgument(
            f"{arguments.points} is no .npy of points nor .npz with means: {error}"
        ) from None
    with _client(arguments) as client:
        images = client.decode(z)
    _write(arguments, images, z)
    print(f"{arguments.out}: {len(images)} images")
    return 0


def interpolate(arguments: argparse.Namespace) -> int:
    """Write a walk between two images."""
    start, end = _read([arguments.start]), _read([arguments.end])
    with _client(arguments) as client:
        walk = client.interpolate(start, end, arguments.steps, arguments.path)
    _write(arguments, walk.images[0], walk.latents[0], columns=arguments.steps)
    print(f"{arguments.out}: {arguments.steps} steps")
    return 0


def edit(arguments: argparse.Namespace) -> int:
    """Write images with attributes added."""
    edits: dict[str, float] = arguments.add
    with _client(arguments) as client:
        points: Points = _read(arguments.images)
        if arguments.steps > 1:
            points = client.encode(points).means
        shares = np.linspace(0, 1, arguments.steps) if arguments.steps > 1 else np.ones(1)
        moved = [
            client.add_attribute(
                points,
                {name: strength * float(share) for name, strength in edits.items()},
                orthogonal_to=arguments.orthogonal_to,
            )
            for share in shares
        ]
    # Row by row: one image, from nothing to all of the edit.
    images, z = (np.stack(parts, axis=1) for parts in zip(*moved, strict=True))
    _write(arguments, images.reshape(-1, *images.shape[2:]), z.reshape(-1, z.shape[-1]), columns=len(shares))
    print(f"{arguments.out}: {len(images)} images x {len(shares)} steps")
    return 0


def bench(arguments: argparse.Namespace) -> int:
    """Load a server and show what was measured; status 1 if calls failed, 130 after Ctrl-C."""
    try:
        from armoire.load import session, table

        if arguments.plot:
            from armoire.load import plot
    except ModuleNotFoundError as error:
        raise StartError(f"bench needs {error.name}; install armoire[bench]") from None
    for path in (arguments.json, arguments.plot):
        if path and not path.parent.is_dir():
            raise FileNotFoundError(f"{path}: there is no folder {path.parent}")
    plan = to_plan(arguments, _token(arguments))
    with table.progress_bar(plan.rpc, None if plan.saturations else len(plan.loads)) as watch:
        report = session.run(plan, watch)
    table.show(report)
    if arguments.json:
        with replacing(arguments.json) as file:
            file.write(json.dumps(report.to_json(), indent=2).encode() + b"\n")
    if arguments.plot:
        plot.save(report, arguments.plot)
    if report.interrupted:
        return EXIT_INTERRUPTED
    if report.failed and not arguments.allow_failures:
        raise ArmoireError(f"{report.failed:,} calls failed: {report.failures()}")
    for searched, rate in zip(plan.saturations, report.saturations, strict=True):
        if rate is None:
            raise ArmoireError(f"no rate that was tried keeps a p99 of {searched.p99_ms:g} ms")
    return 0


def _client(arguments: argparse.Namespace) -> Client:
    return Client(
        arguments.address,
        timeout=arguments.timeout,
        credentials=_credentials(arguments),
        token=_token(arguments),
        model=getattr(arguments, "model", ""),
        version=getattr(arguments, "model_version", ""),
    )


def _credentials(arguments: argparse.Namespace) -> grpc.ChannelCredentials | None:
    paths = (arguments.tls_ca, arguments.tls_key, arguments.tls_cert)
    if not arguments.tls and not any(paths):
        return None
    return read_credentials(*paths)


def _token(arguments: argparse.Namespace) -> str | None:
    if not arguments.token_file:
        return None
    token = arguments.token_file.read_bytes().strip()
    # The rest of the file's bytes are kept out of the message: they may be most of a secret.
    if not re.fullmatch(rb"[!-~]+", token):
        raise InvalidArgument(
            f"--token-file {arguments.token_file} holds no token: one line of ASCII is wanted"
        )
    return str(token, "ascii")


def _read(paths: Sequence[Path]) -> list[bytes]:
    return [path.read_bytes() for path in paths]


def _write(arguments: argparse.Namespace, images: Array, z: Array, columns: int | None = None) -> None:
    pictures.save(pictures.grid(images, columns), arguments.out)
    if arguments.files:
        arguments.files.mkdir(parents=True, exist_ok=True)
        for index, image in enumerate(images):
            pictures.save(pictures.to_image(image), arguments.files / f"{index}.png")
    if arguments.latents:
        with replacing(arguments.latents) as file:
            np.save(file, z)
