"""CelebA from its files: what is in them, what becomes of a photograph, what happens when one is bad."""

import logging
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.training.processes import ROOT, checkpoint_of
from training.__main__ import main
from training.config import PRESETS
from training.data import celeba
from training.errors import TrainingError

NAMES = ("Bald", "Smiling", "Young")
REAL = os.environ.get("ARMOIRE_CELEBA")
# Partition of each image, in the order of the lists; the held-out ones are not the last.
PARTS = [0, 1, 2, 0, 0, 1, 0]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ARMOIRE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("ARMOIRE_CELEBA", raising=False)
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """CelebA's layout with seven images, each of one grey, and three attributes."""
    return make(tmp_path / "celeba", PARTS)


def make(folder: Path, parts: list[int]) -> Path:
    images = folder / celeba.IMAGES
    images.mkdir(parents=True)
    for index in range(len(parts)):
        Image.new("L", (178, 218), grey(index)).save(images / file(index))
    rows = [
        f"{file(index)} " + " ".join(f"{value:2d}" for value in values(index)) for index in range(len(parts))
    ]
    (folder / celeba.ATTRIBUTES).write_text("\n".join([str(len(parts)), " ".join(NAMES) + " ", *rows, ""]))
    (folder / celeba.PARTITION).write_text(
        "".join(f"{file(index)} {part}\n" for index, part in enumerate(parts))
    )
    return folder


def file(index: int) -> str:
    return f"{index:06d}.jpg"


def grey(index: int) -> int:
    return 10 + 2 * index % 240


def values(index: int) -> list[int]:
    return [1 if index >> bit & 1 else -1 for bit in range(len(NAMES))]


def change(path: Path, line: int, edit: Callable[[str], str]) -> None:
    """Edit one line, counted from 1, as an editor shows it."""
    lines = path.read_text().split("\n")
    lines[line - 1] = edit(lines[line - 1])
    path.write_text("\n".join(lines))


def test_partition_0_is_trained_on_and_1_is_held_out(folder: Path) -> None:
    """Images and labels of both parts go together, and nothing of partition 2 is there."""
    data = celeba.load(folder, 148, 32)
    for split, part in ((data.train, 0), (data.test, 1)):
        indices = [index for index, of in enumerate(PARTS) if of == part]
        assert split.images.dtype == torch.uint8
        assert split.images.shape == (len(indices), 32, 32, 3)
        assert split.images[:, 16, 16, 0].tolist() == [grey(index) for index in indices]
        assert split.labels.dtype == torch.bool
        assert split.labels.tolist() == [[value == 1 for value in values(index)] for index in indices]


def test_the_source_says_what_a_bundle_has_to_know(folder: Path) -> None:
    """Name with the number of images, licence, attributes in the file's order and names, and preprocessing."""
    source = celeba.load(folder, 148, 64).source
    assert source.name == "CelebA (a part of 7)"
    assert source.slug == "celeba"
    assert source.licence == "CelebA: non-commercial research only, no redistribution"
    assert source.attributes == NAMES
    assert not source.exclusive
    assert source.held_out == "validation"
    assert source.preprocessing == {"crop": 148, "resize": [64, 64], "pad": 0}


def test_the_folder_is_the_callers_then_the_environments(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--data comes before ARMOIRE_CELEBA."""
    monkeypatch.setenv("ARMOIRE_CELEBA", str(folder))
    assert len(celeba.load(None, 148, 32).train) == 4
    other = make(tmp_path / "other", [0, 0, 1, 1])
    assert len(celeba.load(other, 148, 32).train) == 2


def test_without_a_folder_the_error_says_how_to_get_celeba() -> None:
    """One line with the address, the condition of use, the option and the variable."""
    with pytest.raises(TrainingError) as caught:
        celeba.load(None, 148, 64)
    for part in (
        "http://mmlab.ie.cuhk.edu.hk/projects/CelebA.html",
        "non-commercial",
        "--data",
        "ARMOIRE_CELEBA",
    ):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [celeba.ATTRIBUTES, celeba.PARTITION, celeba.IMAGES])
def test_a_missing_file_or_folder_is_named(name: str, folder: Path) -> None:
    """The error has its path and how to get CelebA."""
    (folder / name).rename(folder / "elsewhere")
    with pytest.raises(TrainingError, match=r"is missing: get CelebA from http") as caught:
        celeba.load(folder, 148, 32)
    assert str(folder / name) in str(caught.value)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    """A wrong --data is answered with the first file that is missing in it."""
    with pytest.raises(TrainingError, match=r"nowhere/list_attr_celeba.txt is missing"):
        celeba.load(tmp_path / "nowhere", 148, 32)


def test_photographs_that_are_a_file_are_named(folder: Path) -> None:
    """A file in the place of the folder of photographs is an error of one line too."""
    (folder / celeba.IMAGES).rename(folder / "elsewhere")
    (folder / celeba.IMAGES).write_text("")
    with pytest.raises(TrainingError, match="img_align_celeba is missing"):
        celeba.load(folder, 148, 32)


@pytest.mark.parametrize(
    ("name", "line", "edit", "fault"),
    [
        (celeba.ATTRIBUTES, 1, lambda _: "8", r", line 1: says 8 images, but 7 follow"),
        (celeba.ATTRIBUTES, 1, lambda _: "file", r", line 1: the number of images is wanted"),
        (celeba.ATTRIBUTES, 2, lambda _: "Bald Bald Young", r", line 2: .* each once"),
        (celeba.ATTRIBUTES, 2, lambda _: " ", r", line 2: the attributes' names are wanted"),
        (celeba.ATTRIBUTES, 4, lambda row: row + " 1", r", line 4: has 4 values, 3 are wanted"),
        (celeba.ATTRIBUTES, 9, lambda row: row[:-3], r", line 9: has 2 values, 3 are wanted"),
        (celeba.ATTRIBUTES, 5, lambda _: "", r", line 5: has 0 values, 3 are wanted"),
        (celeba.ATTRIBUTES, 6, lambda _: "000003.jpg 1 0 -1", r", line 6: has the value '0', 1 or -1"),
        (celeba.ATTRIBUTES, 7, lambda _: "000001.jpg 1 1 1", r", line 7: 000001.jpg has been listed before"),
        (celeba.ATTRIBUTES, 7, lambda _: "x.jpg 1 1 1", r", line 7: x.jpg is not in list_eval_partition.txt"),
        (
            celeba.PARTITION,
            2,
            lambda _: "x.jpg 1",
            r"list_attr_celeba.txt, line 4: 000001.jpg is not in list_eval",
        ),
        (
            celeba.PARTITION,
            7,
            lambda row: row + "\nx.jpg 0",
            r", line 8: x.jpg is not in list_attr_celeba.txt",
        ),
        (celeba.PARTITION, 3, lambda _: "000002.jpg 3", r", line 3: has the partition '3', 0, 1 or 2"),
        (celeba.PARTITION, 3, lambda _: "000002.jpg", r", line 3: has 1 columns"),
        (celeba.PARTITION, 3, lambda _: "000000.jpg 0", r", line 3: 000000.jpg has been listed before"),
    ],
)
def test_a_bad_line_is_named(
    name: str, line: int, edit: Callable[[str], str], fault: str, folder: Path
) -> None:
    """The error is one line with the file, the line, what is wrong with it and what to do."""
    change(folder / name, line, edit)
    with pytest.raises(TrainingError, match=fault) as caught:
        celeba.load(folder, 148, 32)
    assert str(caught.value).startswith(str(folder))
    assert str(caught.value).count("\n") == 0
    assert "correct it or get CelebA" in str(caught.value)


@pytest.mark.parametrize("name", [celeba.ATTRIBUTES, celeba.PARTITION])
@pytest.mark.parametrize("content", [b"", b"\xff\xd8\xff\xe0"])
def test_a_list_that_is_empty_or_no_text_is_named(name: str, content: bytes, folder: Path) -> None:
    """An unfinished download or a wrong file is an error that names it."""
    (folder / name).write_bytes(content)
    with pytest.raises(TrainingError, match=rf"{name}( cannot be read|, line 1)"):
        celeba.load(folder, 148, 32)


def test_lines_that_end_as_on_windows_are_read(folder: Path) -> None:
    """The lists are the same with carriage returns."""
    for name in (celeba.ATTRIBUTES, celeba.PARTITION):
        (folder / name).write_bytes((folder / name).read_bytes().replace(b"\n", b"\r\n"))
    assert celeba.load(folder, 148, 32).source.attributes == NAMES


@pytest.mark.parametrize(("parts", "absent"), [([1, 1, 2], "0 (training)"), ([0, 0, 2], "1 (validation)")])
def test_a_partition_without_images_is_named(parts: list[int], absent: str, tmp_path: Path) -> None:
    """There is nothing to learn from, or to test on, and the error says which."""
    with pytest.raises(TrainingError) as caught:
        celeba.load(make(tmp_path / "celeba", parts), 148, 32)
    assert f"has no image of partition {absent}" in str(caught.value)


def test_the_photographs_of_partition_2_are_not_opened(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One that is missing there is no damage."""
    (folder / celeba.IMAGES / file(2)).unlink()
    assert len(celeba.load(folder, 148, 32).train) == 4
    assert not caplog.records


def test_unlisted_photographs_are_counted_in_one_warning(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """They are left out, and other files are not spoken of."""
    for name in ("x.jpg", "y.JPG", "Thumbs.db"):
        (folder / celeba.IMAGES / name).write_bytes(b"")
    assert len(celeba.load(folder, 148, 32).train) == 4
    (message,) = caplog.messages
    assert message.startswith("2 images of ")


def test_a_missing_and_a_damaged_photograph_are_left_out_with_their_labels(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Two of 240 are named in warnings, from the cache too, and every other image keeps its own labels."""
    folder = make(tmp_path / "celeba", [0, 1] * 120)
    (folder / celeba.IMAGES / file(4)).unlink()
    path = folder / celeba.IMAGES / file(7)
    path.write_bytes(path.read_bytes()[:-200])
    for _ in range(2):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            data = celeba.load(folder, None, 32)
        assert [record.levelname for record in caplog.records] == ["WARNING"] * 3
        assert f"{file(4)} is left out: the file is missing" in caplog.messages[0]
        assert f"{file(7)} is left out: " in caplog.messages[1]
        for split, part, lost in ((data.train, 0, 4), (data.test, 1, 7)):
            indices = [index for index in range(part, 240, 2) if index != lost]
            assert split.images[:, 0, 0, 1].tolist() == [grey(index) for index in indices]
            assert split.labels.tolist() == [[value == 1 for value in values(index)] for index in indices]


def test_more_than_one_percent_damaged_stops(tmp_path: Path, cache: Path) -> None:
    """Four of 300 are an error that counts them and names three, and nothing is left in the cache."""
    folder = make(tmp_path / "celeba", [0] * 290 + [1] * 10)
    for index in (3, 5, 7, 9):
        (folder / celeba.IMAGES / file(index)).write_bytes(b"no image")
    with pytest.raises(TrainingError) as caught:
        celeba.load(folder, 148, 32)
    message = str(caught.value)
    assert message.startswith("4 of the first 256 images of ")
    assert "more than 1% of all 300" in message
    assert [index for index in range(300) if f"{file(index)}:" in message] == [3, 5, 7]
    assert "\n" not in message
    assert [path.name for path in cache.iterdir()] == [".lock"]


def test_a_held_out_part_of_damaged_photographs_only_is_an_error(tmp_path: Path) -> None:
    """One of 100 may be damaged, but not if it is the only one to test on."""
    folder = make(tmp_path / "celeba", [0] * 99 + [1])
    (folder / celeba.IMAGES / file(99)).write_bytes(b"no image")
    with pytest.raises(TrainingError, match=r"partition 1 \(validation\) .* has 0 whole images"):
        celeba.load(folder, 148, 32)


def test_a_bundle_of_celeba_stays_outside_the_repository(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where it would go by default, and wherever in the repository a path ends, it is refused in one line."""
    small = {"encoder_channels": (4,) * 3, "decoder_channels": (4,) * 3, "latent_size": 2, "batch_size": 4}
    monkeypatch.setitem(PRESETS, "celeba", replace(PRESETS["celeba"], image_size=32, epochs=1, **small))
    runs, link = tmp_path / "runs", tmp_path / "link"
    places = ["--data", str(folder), "--runs", str(runs)]
    assert main(["fit", "celeba", *places]) == 0
    assert checkpoint_of(runs, "celeba")["config"]["crop"] == 148
    capsys.readouterr()
    link.symlink_to(ROOT / "service")
    for out in ([], ["--out", str(ROOT / "bundles")], ["--out", str(link / "armoire" / "models")]):
        assert main(["export", "celeba", *places, *out]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert "CelebA (a part of 7), which may not be passed on" in error
        assert "--out ~/models" in error
    # Elsewhere it goes on, to where seven images are too few.
    assert main(["export", "celeba", *places, "--out", str(tmp_path / "models")]) == 2
    assert "the graphs are checked with 64" in capsys.readouterr().err


@pytest.mark.skipif(REAL is None, reason="needs CelebA or a part of it: ARMOIRE_CELEBA names its folder")
def test_the_real_photographs_load() -> None:
    """As many images as both partitions list less those left out, 40 attributes, and faces that differ."""
    assert REAL is not None
    parts = [line.split()[1] for line in (Path(REAL) / celeba.PARTITION).read_text().splitlines()]
    if len(parts) == 14_149:
        assert (parts.count("0"), parts.count("1")) == (12_562, 1_587)
    data = celeba.load(Path(REAL), 148, 64)
    for split, part in ((data.train, "0"), (data.test, "1")):
        assert 0.99 * parts.count(part) <= len(split) <= parts.count(part)
        assert split.images.shape == (len(split), 64, 64, 3)
        assert split.labels.shape == (len(split), 40)
        # A photograph of every hundredth person: not one is of one colour, no two are the same.
        some = split.images[::100].numpy().reshape(-1, 64 * 64 * 3)
        assert (some.std(axis=1) > 5).all()
        assert len(np.unique(some, axis=0)) == len(some)
    assert len(data.source.attributes) == 40
    assert data.source.attributes[20] == "Male"
    assert 0.3 < data.train.labels[:, 20].float().mean() < 0.55
