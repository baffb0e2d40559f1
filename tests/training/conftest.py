"""Runs on the slice of Fashion-MNIST in tests/data, trained once and shared: seconds each, through the command line."""

from pathlib import Path

import pytest
import torch

from training.__main__ import main
from training.data import Data
from training.data import idx as datasets

# They train and judge models of their own: begun first, so that the two workers of `make test` end at about one time.
LONGEST = ("test_report", "test_faces", "test_evaluate", "test_fit", "test_export")
SLICE = Path(__file__).parent.parent / "data"


def fit(preset: str, runs: Path, *options: str) -> int:
    return main(["fit", preset, "--data", str(SLICE), "--runs", str(runs), *options])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest modules first; all else stays in its order."""
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Small models on small batches: a second thread of PyTorch's costs more in waiting than it gives in work."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def data() -> Data:
    return datasets.load(SLICE)


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three short runs: a plain and a variational model of the wall, and the 16-dimensional one."""
    runs = tmp_path_factory.mktemp("runs")
    for preset in ("fashion-2d", "fashion-autoencoder-2d", "fashion"):
        assert fit(preset, runs, "--epochs", "6", "--learning-rate", "0.01") == 0
    return runs
