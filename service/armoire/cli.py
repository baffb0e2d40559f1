"""The command line: armoire serve | health | models | sample | encode | decode | interpolate | edit | bench."""

from __future__ import annotations

import argparse
import asyncio
import sys
import zipfile
from collections.abc import Callable, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import grpc
import numpy as np

from armoire import bench, pictures
from armoire.client import Client, Points, to_error
from armoire.errors import ArmoireError, InvalidArgument, StartError

EXIT_FAILED, EXIT_USAGE = 1, 2
PAIR = "armoire sample --count 2 --seed 7 --out pair.png --files pair\n  "


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; exit status 0, or 1 for a call that failed, or 2 for a wrong command or setting."""
    parser = _parser()
    arguments, unknown = parser.parse_known_args(argv)
    # Without the server's packages its flags are not known either, and _serve says what to install.
    if unknown and not (arguments.verb == "serve" and find_spec("pydantic") is None):
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    try:
        status: int = arguments.run(arguments)
    except StartError as error:
        print(f"armoire: {error}", file=sys.stderr)
        return EXIT_USAGE
    except (ArmoireError, OSError) as error:
        print(f"armoire {arguments.verb}: {error}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        return 130
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="armoire", description="Serve a variational autoencoder over gRPC, and call it."
    )
    parser.add_argument("--version", action="version", version=f"armoire {version('armoire')}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(
        name: str, run: Callable[[argparse.Namespace], int], text: str, example: str
    ) -> argparse.ArgumentParser:
        made = verbs.add_parser(
            name,
            help=text,
            description=text[0].upper() + text[1:] + ".",
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        made.set_defaults(run=run)
        return made

    serve = verb("serve", _serve, "serve model bundles over gRPC", "armoire serve --threads 1")
    _add_settings(serve)

    health = verb("health", _health, "ask a server for its health; exit 0 if it serves", "armoire health")
    _add_connection(health)

    models = verb("models", _models, "list what a server serves", "armoire models")
    _add_connection(models)

    sample = verb(
        "sample",
        _sample,
        "draw new images from a prior",
        "armoire sample --count 64 --seed 7 --out wall.png",
    )
    _add_connection(sample, model=True)
    sample.add_argument("--count", type=int, default=64, help="how many (default: 64)")
    sample.add_argument("--seed", type=int, help="the same seed gives the same images (default: a new one)")
    sample.add_argument("--temperature", type=float, help="scales the prior's spread (default: 1)")
    sample.add_argument("--prior", default="", help="normal or fitted (default: the model's own)")
    _add_outputs(sample, "wall.png")

    encode = verb(
        "encode",
        _encode,
        "give the posterior of image files, as an .npz of means and log_variances",
        PAIR + "armoire encode pair/0.png pair/1.png --out posterior.npz",
    )
    _add_connection(encode, model=True)
    encode.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="PNG or JPEG files")
    encode.add_argument("--out", type=Path, default=Path("posterior.npz"), help="(default: posterior.npz)")

    decode = verb(
        "decode",
        _decode,
        "decode latent points from an .npy file, or the means of an .npz file",
        "armoire sample --count 16 --seed 7 --out wall.png --latents z.npy\n  "
        "armoire decode z.npy --out again.png",
    )
    _add_connection(decode, model=True)
    decode.add_argument("points", type=Path, metavar="POINTS", help="float32 [n, latent_size]")
    _add_outputs(decode, "decoded.png")

    interpolate = verb(
        "interpolate",
        _interpolate,
        "walk from one image to another",
        PAIR + "armoire interpolate pair/0.png pair/1.png --steps 8 --out strip.png",
    )
    _add_connection(interpolate, model=True)
    interpolate.add_argument("start", type=Path, metavar="START", help="a PNG or JPEG file")
    interpolate.add_argument("end", type=Path, metavar="END", help="a PNG or JPEG file")
    interpolate.add_argument("--steps", type=int, default=8, help="images, both ends included (default: 8)")
    interpolate.add_argument("--path", choices=("linear", "spherical"), default="linear")
    _add_outputs(interpolate, "strip.png")

    edit = verb(
        "edit",
        _edit,
        "move images along named attributes",
        PAIR + "armoire edit pair/0.png pair/1.png --add ankle_boot=1.5 --steps 6 --out edited.png",
    )
    _add_connection(edit, model=True)
    edit.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="PNG or JPEG files")
    edit.add_argument(
        "--add",
        action="append",
        required=True,
        type=_strength,
        metavar="NAME[=STRENGTH]",
        help="an attribute of the model and how much of it; 1 is the distance between the class means",
    )
    edit.add_argument(
        "--steps", type=int, default=1, help="show the way from nothing to all of it in so many images"
    )
    _add_outputs(edit, "edited.png")

    load = verb(
        "bench", _bench, "load the decode path and measure", "armoire bench --callers 16 --rows 8 --seconds 5"
    )
    _add_connection(load, model=True)
    load.add_argument("--callers", type=_positive, default=16, help="calls in flight (default: 16)")
    load.add_argument("--rows", type=_positive, default=8, help="latent points a call (default: 8)")
    load.add_argument("--seconds", type=_duration, default=5.0, help="how long (default: 5)")
    return parser


def _add_connection(parser: argparse.ArgumentParser, *, model: bool = False) -> None:
    group = parser.add_argument_group("connection")
    group.add_argument("--address", default="127.0.0.1:50051", help="HOST:PORT (default: 127.0.0.1:50051)")
    group.add_argument("--timeout", type=float, default=30.0, help="seconds for the call (default: 30)")
    group.add_argument("--tls", action="store_true", help="speak TLS; any of the next three does so too")
    group.add_argument("--tls-ca", type=Path, help="PEM authorities to trust (default: the system's)")
    group.add_argument("--tls-cert", type=Path, help="PEM certificate of this client, for mTLS")
    group.add_argument("--tls-key", type=Path, help="PEM private key of this client")
    group.add_argument("--token-file", type=Path, help="file that holds a bearer token")
    if model:
        group.add_argument("--model", default="", help="(default: the server's own)")
        group.add_argument("--model-version", default="", help="(default: the newest)")


def _add_outputs(parser: argparse.ArgumentParser, out: str) -> None:
    parser.add_argument("--out", type=Path, default=Path(out), help=f"the PNG to write (default: {out})")
    parser.add_argument("--files", type=Path, help="a folder for the single images, 0.png on")
    parser.add_argument("--latents", type=Path, help="an .npy file for the latent points")


def _add_settings(parser: argparse.ArgumentParser) -> None:
    try:
        from armoire import config
    except ModuleNotFoundError:
        return  # a caller's installation: _serve says what is missing
    config.add_flags(parser)


def _serve(arguments: argparse.Namespace) -> int:
    try:
        from armoire import config, logs, server
    except ModuleNotFoundError as error:
        raise StartError(
            f"the server needs {error.name}; install armoire[cpu], or armoire[cuda] for a GPU"
        ) from None
    flags = {name: value for name, value in vars(arguments).items() if name in config.Settings.model_fields}
    settings = config.load(flags)
    logs.configure(settings.log_format)
    asyncio.run(server.serve(settings))
    return 0


def _health(arguments: argparse.Namespace) -> int:
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
            reply = check(b"", timeout=arguments.timeout)
        except grpc.RpcError as error:
            raise to_error(error) from None
    serving = reply == b"\x08\x01"
    print("SERVING" if serving else "NOT_SERVING")
    return 0 if serving else EXIT_FAILED


def _models(arguments: argparse.Namespace) -> int:
    with _client(arguments) as client:
        for model in client.models():
            height, width, channels = model.image_shape
            print(
                f"{model.name} version {model.version}: {height}x{width}x{channels}, {model.latent_size} dimensions"
            )
            print(f"  runs on     {model.provider}, {model.precision}")
            print(f"  priors      {', '.join(model.priors)} (default: {model.default_prior})")
            print(f"  attributes  {', '.join(model.attributes) or 'none'}")
            print(f"  measured    {', '.join(f'{k} {v:.4g}' for k, v in sorted(model.metrics.items()))}")
            print(f"  limits      {', '.join(f'{k} {v}' for k, v in model.limits.items())}")
            print(f"  licence     {model.licence}")
    return 0


def _sample(arguments: argparse.Namespace) -> int:
    with _client(arguments) as client:
        drawn = client.sample(
            arguments.count, seed=arguments.seed, temperature=arguments.temperature, prior=arguments.prior
        )
    _write(arguments, drawn.images, drawn.latents)
    print(f"{arguments.out}: {len(drawn.images)} images, seed {drawn.seed}")
    return 0


def _encode(arguments: argparse.Namespace) -> int:
    with _client(arguments) as client:
        posterior = client.encode(_read(arguments.images))
    with arguments.out.open("wb") as file:
        np.savez(file, means=posterior.means, log_variances=posterior.log_variances)
    n, d = posterior.means.shape
    print(f"{arguments.out}: means and log_variances of {n} images in {d} dimensions")
    return 0


def _decode(arguments: argparse.Namespace) -> int:
    try:
        with arguments.points.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            z = loaded if isinstance(loaded, np.ndarray) else loaded["means"]
        z = np.asarray(z, np.float32)
    except (ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InvalidArgument(
            f"{arguments.points} is no .npy of points nor .npz with means: {error}"
        ) from None
    with _client(arguments) as client:
        images = client.decode(z)
    _write(arguments, images, z)
    print(f"{arguments.out}: {len(images)} images")
    return 0


def _interpolate(arguments: argparse.Namespace) -> int:
    start, end = _read([arguments.start]), _read([arguments.end])
    with _client(arguments) as client:
        walk = client.interpolate(start, end, arguments.steps, arguments.path)
    _write(arguments, walk.images[0], walk.latents[0], columns=arguments.steps)
    print(f"{arguments.out}: {arguments.steps} steps")
    return 0


def _edit(arguments: argparse.Namespace) -> int:
    edits = dict(arguments.add)
    with _client(arguments) as client:
        points: Points = _read(arguments.images)
        if arguments.steps > 1:
            points = client.encode(points).means
        shares = np.linspace(0, 1, arguments.steps) if arguments.steps > 1 else np.ones(1)
        moved = [
            client.add_attribute(points, {k: v * float(share) for k, v in edits.items()}) for share in shares
        ]
    # Row by row: one image, from nothing to all of the edit.
    images, z = (np.stack(parts, axis=1) for parts in zip(*moved, strict=True))
    _write(arguments, images.reshape(-1, *images.shape[2:]), z.reshape(-1, z.shape[-1]), columns=len(shares))
    print(f"{arguments.out}: {len(images)} images x {len(shares)} steps")
    return 0


def _bench(arguments: argparse.Namespace) -> int:
    with _client(arguments) as client:
        served = client.models()
    model = next((m for m in served if arguments.model in ("", m.name)), served[0])
    load = bench.Load(
        arguments.callers, arguments.rows, arguments.seconds, arguments.model, arguments.model_version
    )
    figures = asyncio.run(
        bench.run(arguments.address, load, model.latent_size, _credentials(arguments), _token(arguments))
    )
    print(f"{model.name}: {load.callers} callers x {load.rows} rows for {load.seconds:g} s")
    print(f"  {figures.images_per_second:,.0f} images/s in {figures.calls:,} calls")
    print(f"  latency p50 {figures.p50:.2f} ms, p90 {figures.p90:.2f} ms, p99 {figures.p99:.2f} ms")
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
    files = (arguments.tls_ca, arguments.tls_key, arguments.tls_cert)
    if not arguments.tls and not any(files):
        return None
    return grpc.ssl_channel_credentials(*(path.read_bytes() if path else None for path in files))


def _token(arguments: argparse.Namespace) -> str | None:
    return arguments.token_file.read_text().strip() if arguments.token_file else None


def _read(paths: Sequence[Path]) -> list[bytes]:
    return [path.read_bytes() for path in paths]


def _write(
    arguments: argparse.Namespace, images: np.ndarray, z: np.ndarray, columns: int | None = None
) -> None:
    pictures.save(pictures.grid(images, columns), arguments.out)
    if arguments.files:
        arguments.files.mkdir(parents=True, exist_ok=True)
        for index, image in enumerate(images):
            pictures.save(pictures.to_image(image), arguments.files / f"{index}.png")
    if arguments.latents:
        with arguments.latents.open("wb") as file:
            np.save(file, z)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} came; at least 1 is wanted")
    return value


def _duration(text: str) -> float:
    value = float(text)
    if not 0 < value <= 3600:
        raise argparse.ArgumentTypeError(f"{text} came; more than 0 and at most 3600 is wanted")
    return value


def _strength(text: str) -> tuple[str, float]:
    name, equals, amount = text.partition("=")
    try:
        return name, float(amount) if equals else 1.0
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} came; NAME or NAME=NUMBER is wanted") from None


if __name__ == "__main__":
    sys.exit(main())
