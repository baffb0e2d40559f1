"""The checkpoint: one file of plain tensors, numbers and text that explains itself, read with ``weights_only=True``."""

import importlib.metadata
import io
import os
import subprocess
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from training import files
from training.config import Config
from training.data import Data
from training.errors import TrainingError
from training.model import Autoencoder

FORMAT = 1
NAME = "checkpoint.pt"
LIBRARIES = ("torch", "lightning-fabric", "numpy")
# Beside the format: what Trainer.state and Record.save put in.
KEYS = {
    *("config", "step", "skipped", "skipped_in_a_row", "model", "average", "optimizer"),
    *("commit", "libraries", "data", "history", "unfinished_epoch", "seconds"),
}


def save(folder: Path, state: dict[str, Any]) -> None:
    """Write the state beside the checkpoint of ``folder`` and rename it, so that a reader never meets half a file."""
    folder.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()
    # Into memory first: torch itself makes a RuntimeError of a full disk.
    torch.save({"format": FORMAT, **state}, content)
    files.write(folder / NAME, content.getbuffer())


def load(folder: Path) -> dict[str, Any]:
    """Read the checkpoint of a run, whose folder has its preset's name.

    Raises:
        TrainingError: there is none, it is not one of ours, or it is another preset's.
    """
    path = folder / NAME
    if not path.exists():
        raise TrainingError(f"{path} is missing: train first with `python -m training fit {folder.name}`")
    with reading(folder):
        _verify(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise TrainingError(f"{path} is not a checkpoint of format {FORMAT}")
    if missing := KEYS - state.keys():
        raise TrainingError(f"{path} is no whole checkpoint: it lacks {', '.join(sorted(missing))}")
    with reading(folder):
        preset = state["config"]["preset"]
    if preset != folder.name:
        raise TrainingError(
            f"{path} is of preset {preset}, not of {folder.name}: move it to the folder {preset}, or begin "
            f"{folder.name} anew with `python -m training fit {folder.name} --restart`"
        )
    return state


@contextmanager
def reading(folder: Path) -> Iterator[None]:
    """Make one line of whatever the checkpoint of ``folder`` makes its readers raise.

    Raises:
        TrainingError: in place of any other exception.
    """
    try:
        yield
    except TrainingError:
        raise
    except Exception as error:  # of a damaged file torch, pickle and we raise what they like
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise TrainingError(f"{folder / NAME} is damaged ({reason})") from None


def _verify(path: Path) -> None:
    """Compare every part with its checksum, which torch.load does not."""
    with zipfile.ZipFile(path) as archive:
        if damaged := archive.testzip():
            raise TrainingError(f"{path} is damaged (the checksum of {damaged} differs)")


def load_model(folder: Path) -> tuple[Autoencoder, dict[str, Any]]:
    """Load the trained model of a run (averaged weights, evaluation mode) and its whole checkpoint.

    Raises:
        TrainingError: as ``load``.
    """
    state = load(folder)
    with reading(folder):
        model = Autoencoder(Config.from_dict(state["config"]))
        model.load_state_dict(state["average"])
    return model.eval(), state


def require_data(state: dict[str, Any], data: Data, folder: Path) -> None:
    """Refuse data that a run was not trained on: figures of the two would not compare."""
    if state["data"] != data.source.name:
        raise TrainingError(
            f"{folder} was trained on {state['data']}, and the data here is {data.source.name}"
        )
    # Of checkpoints from before there were fingerprints the name is all that is known.
    if state.get("fingerprint", data.fingerprint()) != data.fingerprint():
        raise TrainingError(
            f"{folder} was trained on other images or labels of {data.source.name} than those that are here: "
            "begin anew with fit --restart"
        )


def provenance() -> dict[str, Any]:
    """Where a run comes from: the commit of this repository (``+`` after it: with changes) and library versions.

    An image, which has no repository, says in ARMOIRE_REVISION what it was built of.
    """
    return {"commit": _commit(), "libraries": {name: importlib.metadata.version(name) for name in LIBRARIES}}


def _commit() -> str:
    root = Path(__file__).resolve().parent.parent
    try:
        commit = _git(root, "rev-parse", "HEAD")
        changed = _git(root, "status", "--porcelain", "--untracked-files=no", "--", "training")
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("ARMOIRE_REVISION") or "unknown"
    return commit + ("+" if changed else "")


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()  # noqa: S603
