"""The command line: ``python -m training fit|evaluate|export|report PRESET...``, from the repository root."""

import argparse
import logging
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from training.config import LIKELIHOODS, PRESETS
from training.errors import TrainingError

MOST_PIXELS = 65536  # that a bundle's manifest may say


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 2 for a fault that the caller can mend, 130 when interrupted."""
    # ONNX Runtime's wheels report to their maker.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    # Of the processes that torchrun starts the first warns for all.
    if os.environ.get("RANK", "0") != "0":
        logging.getLogger("training").setLevel(logging.ERROR)
    arguments = _parser().parse_args(argv)
    # Each command imports what it needs only when it is asked for: --help need not wait for torch.
    try:
        if arguments.command == "fit":
            from training import fit

            return fit.main(arguments)
        if arguments.command == "evaluate":
            from training import evaluate

            return evaluate.main(arguments)
        if arguments.command == "export":
            from training import export

            return export.main(arguments)
        from training import report

        return report.main(arguments)
    except (TrainingError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    fit = commands.add_parser("fit", help="train a preset", description="Train a preset into RUNS/PRESET.")
    fit.add_argument("preset", metavar="PRESET", help=f"one of: {', '.join(PRESETS)}")
    _add_places(fit)
    begun = fit.add_mutually_exclusive_group()
    begun.add_argument("--resume", action="store_true", help="go on from the checkpoint, to the same numbers")
    begun.add_argument("--restart", action="store_true", help="begin anew where there is a checkpoint")
    instead = fit.add_argument_group("instead of what the preset says")
    instead.add_argument("--epochs", type=_positive, help="passes over the training images")
    instead.add_argument("--batch-size", type=_positive, help="images per step, over all processes together")
    instead.add_argument(
        "--accumulate",
        type=_positive,
        help="parts in which a process takes its share of a batch, where memory is short",
    )
    instead.add_argument("--learning-rate", type=_rate, help="the highest rate of the schedule")
    instead.add_argument("--beta", type=_rate, help="weight of the rate against the distortion")
    instead.add_argument("--likelihood", choices=LIKELIHOODS, help="what p(x given z) is")
    instead.add_argument("--seed", type=_seed, help="of weights, data order and noise")
    instead.add_argument(
        "--crop",
        type=_side,
        metavar="PIXELS",
        help="side of the centred square that is cut out of each picture (default: of CelebA's photographs what the "
        "preset says, of others the largest)",
    )

    evaluate = commands.add_parser(
        "evaluate",
        help="measure trained presets",
        description="Measure on the whole test set; write metrics.json.",
    )
    evaluate.add_argument("preset", metavar="PRESET", nargs="+", help="as given to fit")
    _add_places(evaluate)
    weights = os.environ.get("ARMOIRE_INCEPTION")
    evaluate.add_argument(
        "--inception",
        type=Path,
        metavar="FILE",
        default=Path(weights) if weights else None,
        help="weights of torch-fidelity's Inception, for its FID beside our own distance (default: $ARMOIRE_INCEPTION)",
    )

    export = commands.add_parser(
        "export",
        help="write a bundle",
        description="Write the bundle that the service loads, checked against PyTorch.",
    )
    export.add_argument("preset", metavar="PRESET", help="as given to fit")
    _add_places(export)
    export.add_argument("--version", type=_positive, default=1, help="a positive integer (default: 1)")
    export.add_argument(
        "--out",
        type=Path,
        default=Path("service/armoire/models"),
        metavar="MODELS",
        help="folder of bundles, as the server's --models; NAME/VERSION/ is written in it; of CelebA it has to be "
        "outside this repository (default: %(default)s)",
    )
    export.add_argument(
        "--without",
        action="append",
        default=[],
        choices=("openvino", "cuda-fp16"),
        help="leave out the decoder's form for this provider, for a smaller bundle; may be given twice",
    )
    export.add_argument("--force", action="store_true", help="replace the bundle of that name and version")

    report = commands.add_parser(
        "report",
        help="draw trained presets",
        description="Draw one self-contained HTML page, and its PNGs beside it.",
    )
    report.add_argument("preset", metavar="PRESET", nargs="+", help="as given to fit")
    _add_places(report)
    report.add_argument("--out", type=Path, help="folder (default: RUNS/report)")
    return parser


def _add_places(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the runs (default: runs)")
    parser.add_argument(
        "--data",
        type=Path,
        help="folder of the IDX files (default: $ARMOIRE_DATA, then that of Debian's dataset-fashion-mnist); for "
        "celeba of CelebA (default: $ARMOIRE_CELEBA) or of any images",
    )


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive integer")
    return number


def _side(text: str) -> int:
    number = _positive(text)
    if number > MOST_PIXELS:
        raise argparse.ArgumentTypeError(f"{text} is more than {MOST_PIXELS}")
    return number


def _rate(text: str) -> float:
    number = float(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return number


def _seed(text: str) -> int:
    number = int(text)
    if not 0 <= number < 1 << 63:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and {(1 << 63) - 1}")
    return number


if __name__ == "__main__":
    sys.exit(main())
