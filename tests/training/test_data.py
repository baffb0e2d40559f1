"""Fashion-MNIST from its files: where they are looked for, what is in them, what happens when one is bad."""

import gzip
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.training.conftest import SLICE, fit
from training.data import Data, as_pixels
from training.data import idx as datasets
from training.errors import TrainingError


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for path in SLICE.glob("*.gz"):
        shutil.copy(path, tmp_path)
    return tmp_path


def test_the_slice_holds_2000_images_of_ten_classes(data: Data) -> None:
    """1,500 training and 500 test images, the same number of each class, uint8 [n, 32, 32, 1]."""
    assert data.train.images.shape == (1500, 32, 32, 1)
    assert data.test.images.shape == (500, 32, 32, 1)
    assert data.train.images.dtype == torch.uint8
    assert data.train.labels.bincount().tolist() == [150] * 10
    assert data.test.labels.bincount().tolist() == [50] * 10


def test_no_two_editions_give_a_bundle_the_same_name() -> None:
    """A model of the slice never takes the name of one that was trained on everything."""
    slugs = [edition.slug for edition in datasets.EDITIONS]
    assert len(set(slugs)) == len(slugs)


def test_images_are_padded_with_two_black_pixels(data: Data) -> None:
    """The middle 28x28 is the file's own bytes and everything around it is zero."""
    content = gzip.decompress((SLICE / datasets.TRAIN_IMAGES).read_bytes())
    assert data.train.images[:, 2:-2, 2:-2].numpy().tobytes() == content[16:]
    assert data.train.images.long().sum() == sum(content[16:])


def test_images_are_scaled_to_the_unit_interval(data: Data) -> None:
    """As pixels, 0 is 0 and 255 is 1, channels first."""
    pixels = as_pixels(data.test.images)
    assert pixels.shape == (500, 1, 32, 32)
    assert (pixels.min(), pixels.max()) == (0, 1)


def test_the_folder_is_the_callers_then_the_environments_then_debians(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--data comes before ARMOIRE_DATA, and that before Debian's folder."""
    monkeypatch.delenv("ARMOIRE_DATA", raising=False)
    assert datasets.find_folder(None) == Path("/usr/share/datasets/fashion-mnist")
    monkeypatch.setenv("ARMOIRE_DATA", str(copy))
    assert datasets.find_folder(None) == copy
    assert datasets.find_folder(SLICE) == SLICE


def test_a_file_packed_anew_is_the_same_file(copy: Path) -> None:
    """The checksum is of the content: another compression level is no damage."""
    path = copy / datasets.TEST_IMAGES
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()), 1))
    assert len(datasets.load(copy).test) == 500


@pytest.mark.parametrize("name", [datasets.TRAIN_IMAGES, datasets.TEST_LABELS])
@pytest.mark.parametrize("fault", ["missing", "truncated", "not gzip", "other content", "of another split"])
def test_a_bad_file_gets_one_line_that_says_how_to_get_it(
    fault: str, name: str, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2 and one line on stderr, with the file, the apt package and the download address."""
    path = copy / name
    content = path.read_bytes()
    other = name.replace("train", "t10k") if "train" in name else name.replace("t10k", "train")
    damaged = {
        "truncated": content[:-9],
        "not gzip": b"<html>404</html>",
        "other content": gzip.compress(gzip.decompress(content)[:-1] + b"\x07"),
        "of another split": (SLICE / other).read_bytes(),
    }
    path.unlink() if fault == "missing" else path.write_bytes(damaged[fault])
    code = fit_from(copy)
    lines = capsys.readouterr().err.splitlines()
    assert code == 2
    assert len(lines) == 1
    for part in (str(path), "apt install dataset-fashion-mnist", "http://", "--data", "ARMOIRE_DATA"):
        assert part in lines[0]


def fit_from(folder: Path) -> int:
    from training.__main__ import main

    return main(["fit", "fashion", "--data", str(folder), "--runs", str(folder / "runs")])


@given(position=st.integers(8, 507), change=st.integers(1, 255))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_changed_label_is_noticed(copy: Path, position: int, change: int) -> None:
    """No single byte of a label file can change without an error."""
    content = bytearray(gzip.decompress((SLICE / datasets.TEST_LABELS).read_bytes()))
    content[position] ^= change
    (copy / datasets.TEST_LABELS).write_bytes(gzip.compress(bytes(content), 1))
    with pytest.raises(TrainingError, match="damaged"):
        datasets.load(copy)


def test_an_unknown_preset_is_answered_with_those_there_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2 and one line that lists the presets."""
    assert fit("fashon", tmp_path) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    for name in ("fashion", "fashion-2d", "fashion-autoencoder-2d", "book-fashion-2d"):
        assert name in error


@pytest.mark.skipif(
    not (datasets.DEBIAN_FOLDER / datasets.TRAIN_IMAGES).exists(),
    reason="needs the whole of Fashion-MNIST: apt install dataset-fashion-mnist",
)
def test_the_whole_of_fashion_mnist_loads_from_debians_folder() -> None:
    """60,000 and 10,000 images, and the slice's first test image is the first of the whole."""
    whole = datasets.load(datasets.DEBIAN_FOLDER)
    assert (len(whole.train), len(whole.test)) == (60000, 10000)
    assert torch.equal(whole.test.images[0], datasets.load(SLICE).test.images[0])
