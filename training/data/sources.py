"""Where a preset's data comes from."""

import functools
from pathlib import Path

from training.config import Config
from training.data import Data, idx


def load(config: Config, folder: Path | None) -> Data:
    """Read the data that ``config`` is trained on, from ``folder`` or where its kind is looked for.

    Raises:
        TrainingError: it is missing or damaged; the message says how to get it.
    """
    return _load(config.data, folder)


@functools.lru_cache(maxsize=1)  # several presets of one command share theirs
def _load(kind: str, folder: Path | None) -> Data:
    return {"fashion-mnist": idx.load}[kind](folder)
