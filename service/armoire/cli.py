"""The command line: armoire serve | health | models | sample | encode | decode | interpolate | edit | bench."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from armoire import environment  # noqa: F401 - before whatever loads those libraries
from armoire.errors import ArmoireError, StartError
from armoire.load import flags

EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130
PAIR = "armoire sample --count 2 --seed 5 --out pair.png --files pair\n  "


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; exit status 0, or 1 for a call that failed, or 2 for a wrong command or setting."""
    parser = _parser()
    arguments, unknown = parser.parse_known_args(argv)
    # Without the server's packages its flags are not known either, and serve says what to install.
    if unknown and not (arguments.verb == "serve" and find_spec("msgspec") is None):
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    try:
        status: int = _behaviour(arguments.verb)(arguments)
    except StartError as error:
        print(f"armoire: {error}", file=sys.stderr)
        return EXIT_USAGE
    except BrokenPipeError:
        # The reader, head for instance, has seen enough; nor may the interpreter's last flush complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except (ArmoireError, OSError) as error:
        print(f"armoire {arguments.verb}: {error}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return status


def _behaviour(verb: str) -> Callable[[argparse.Namespace], int]:
    """Find what a verb does; each is the function of its name."""
    module = import_module("armoire.serve" if verb == "serve" else "armoire.verbs")
    found: Callable[[argparse.Namespace], int] = getattr(module, verb)
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="armoire", description="Serve a variational autoencoder over gRPC, and call it."
    )
    parser.add_argument("--version", action=_Version, help="show the version and exit")
    commands = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, text: str, example: str) -> argparse.ArgumentParser:
        return commands.add_parser(
            name,
            help=text,
            description=text[0].upper() + text[1:] + ".",
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    serve = verb("serve", "serve model bundles over gRPC", "armoire serve --threads 1")
    _add_settings(serve)

    health = verb("health", "ask a server for its health; exit 0 if it serves", "armoire health")
    _add_connection(health, file=_file)

    models = verb("models", "list what a server serves", "armoire models")
    _add_connection(models)

    sample = verb(
        "sample",
        "draw new images from a prior",
        "armoire sample --count 64 --seed 7 --out wall.png",
    )
    _add_connection(sample, model=True)
    sample.add_argument("--count", type=int, default=64, help="how many (default: 64)")
    sample.add_argument("--seed", type=int, help="the same seed gives the same images (default: a new one)")
    sample.add_argument("--temperature", type=float, help="scales the prior's spread (default: 1)")
    sample.add_argument("--prior", type=_name, default="", help="normal or fitted (default: the model's own)")
    _add_outputs(sample, "wall.png")

    encode = verb(
        "encode",
        "give the posterior of image files, as an .npz of means and log_variances",
        PAIR + "armoire encode pair/0.png pair/1.png --out posterior.npz",
    )
    _add_connection(encode, model=True)
    encode.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="PNG or JPEG files")
    encode.add_argument("--out", type=Path, default=Path("posterior.npz"), help="(default: posterior.npz)")

    decode = verb(
        "decode",
        "decode latent points from an .npy file, or the means of an .npz file",
        "armoire sample --count 16 --seed 7 --out wall.png --latents z.npy\n  "
        "armoire decode z.npy --out again.png",
    )
    _add_connection(decode, model=True)
    decode.add_argument("points", type=Path, metavar="POINTS", help="float32 [n, latent_size]")
    _add_outputs(decode, "decoded.png")

    interpolate = verb(
        "interpolate",
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
        "move images along named attributes",
        PAIR + "armoire edit pair/0.png pair/1.png --add ankle_boot=1.5 --steps 6 --out edited.png",
    )
    _add_connection(edit, model=True)
    edit.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="PNG or JPEG files")
    edit.add_argument(
        "--add",
        action=_Edits,
        required=True,
        type=_strength,
        metavar="NAME[=STRENGTH]",
        help="an attribute of the model and how much of it; 1 is the distance between the class means",
    )
    edit.add_argument(
        "--orthogonal-to",
        action="append",
        default=[],
        metavar="NAME",
        help="an attribute that the edit is to leave alone: it is projected out of each that is added; may be repeated",
    )
    edit.add_argument(
        "--steps", type=_positive, default=1, help="show the way from nothing to all of it in so many images"
    )
    _add_outputs(edit, "edited.png")

    bench = verb(
        "bench",
        "load a server and measure what it bears",
        "armoire bench --callers 16 --rows 8 --seconds 5\n  "
        "armoire bench --callers 1,8,64 --rows 1 --seconds 5 --plot sweep.png --json sweep.json\n  "
        "armoire bench --rate 100 --rows 8 --seconds 5\n  "
        "armoire bench --saturate 50 --rows 8 --seconds 5",
    )
    _add_connection(bench, model=True)
    flags.add_flags(bench)
    return parser


def _add_connection(
    parser: argparse.ArgumentParser, *, model: bool = False, file: Callable[[str], Path | None] = Path
) -> None:
    group = parser.add_argument_group("connection")
    group.add_argument(
        "--address", type=_name, default="127.0.0.1:50051", help="HOST:PORT (default: 127.0.0.1:50051)"
    )
    group.add_argument("--timeout", type=_duration, default=30.0, help="seconds for the call (default: 30)")
    group.add_argument("--tls", action="store_true", help="speak TLS; any of the next three does so too")
    group.add_argument("--tls-ca", type=file, help="PEM authorities to trust (default: the system's)")
    group.add_argument("--tls-cert", type=file, help="PEM certificate of this client, for mTLS")
    group.add_argument("--tls-key", type=file, help="PEM private key of this client")
    group.add_argument("--token-file", type=file, help="file that holds a bearer token")
    if model:
        group.add_argument("--model", type=_name, default="", help="(default: the server's own)")
        group.add_argument("--model-version", type=_name, default="", help="(default: the newest)")


def _add_outputs(parser: argparse.ArgumentParser, out: str) -> None:
    parser.add_argument("--out", type=Path, default=Path(out), help=f"the PNG to write (default: {out})")
    parser.add_argument("--files", type=Path, help="a folder for the single images, 0.png on")
    parser.add_argument("--latents", type=Path, help="an .npy file for the latent points")


def _add_settings(parser: argparse.ArgumentParser) -> None:
    try:
        from armoire import config
    except ModuleNotFoundError:
        return  # a caller's installation: serve says what is missing
    config.add_flags(parser)


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


def _file(text: str) -> Path | None:
    """Take an empty path as none, for probes without a shell, whose flags come from variables."""
    return Path(text) if text else None


def _name(text: str) -> str:
    """Refuse what was typed in another encoding than the terminal's: gRPC takes UTF-8 only."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError(f"{text!a} came; text in UTF-8 is wanted") from None
    return text


class _Version(argparse.Action):
    """Looks the version up when it is asked for: that takes longer than all of the parsing."""

    def __init__(self, option_strings: Sequence[str], dest: str, **options: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, **options)

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,  # noqa: ARG002
        values: Any,  # noqa: ARG002
        option_string: str | None = None,  # noqa: ARG002
    ) -> None:
        from importlib.metadata import version

        print(f"armoire {version('armoire')}")
        parser.exit()


class _Edits(argparse.Action):
    """Gathers NAME: STRENGTH, each name once."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,  # noqa: ARG002
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,  # noqa: ARG002
    ) -> None:
        name, strength = values
        edits = getattr(namespace, self.dest) or {}
        if name in edits:
            raise argparse.ArgumentError(
                self, f"{name} came twice; one strength for each attribute is wanted"
            )
        setattr(namespace, self.dest, {**edits, name: strength})


def _strength(text: str) -> tuple[str, float]:
    name, equals, amount = _name(text).partition("=")
    try:
        return name, float(amount) if equals else 1.0
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} came; NAME or NAME=NUMBER is wanted") from None


if __name__ == "__main__":
    sys.exit(main())
