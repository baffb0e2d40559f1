"""Any folder of images: which are found and held out, what becomes of a picture, and the cache they are kept in."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from armoire.wire.images import Preprocessing, decode
from tests.training.processes import TORCHRUN, start
from training.config import Crop, preset
from training.data import Data, image_folder
from training.errors import TrainingError
from training.running.loader import Loader

COUNT = 40


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ARMOIRE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Forty images, each of one grey."""
    folder = tmp_path / "My Pictures"
    folder.mkdir()
    for index in range(COUNT):
        Image.new("L", (12, 10), index).save(folder / file(index))
    return folder


def file(index: int) -> str:
    return f"{index:03d}.png"


def is_held_out(name: str) -> bool:
    return int(hashlib.sha256(name.encode()).hexdigest(), 16) % 10 == 0


def greys(data: Data) -> tuple[list[int], list[int]]:
    train, test = (split.images[:, 0, 0, 0].tolist() for split in (data.train, data.test))
    return train, test


def image_of(picture: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """The picture as a model of 64x64 without a crop gets it."""
    return images_of([picture], None, 64)[0]


def images_of(pictures: list[Path], crop: Crop, size: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """The pictures as a model gets them, uint8 [n, size, size, 3]."""
    folder = pictures[0].parent
    data = image_folder.load(folder, crop, size)
    names = sorted(path.name for path in folder.iterdir())
    held_out = [name for name in names if is_held_out(name)]
    rows = {name: data.test.images[row] for row, name in enumerate(held_out)}
    rows |= {
        name: data.train.images[row]
        for row, name in enumerate(name for name in names if name not in held_out)
    }
    return np.stack([rows[path.name].numpy() for path in pictures])


def noise(width: int, height: int, channels: int = 3) -> Image.Image:
    """A picture in which every pixel tells."""
    pixels = np.random.default_rng(7).integers(0, 256, (height, width, channels), np.uint8)
    return Image.fromarray(pixels.squeeze())


def test_images_are_found_below_the_folder_by_their_ending(folder: Path) -> None:
    """Every .jpg, .jpeg, .png and .webp in either case, at any depth, that is not hidden, and nothing else."""
    (folder / "a" / "b").mkdir(parents=True)
    for name in ("x.JPG", "a/y.jpeg", "a/b/z.WebP", "a/b/y.PnG"):
        Image.new("RGB", (12, 10), (200, 200, 200)).save(folder / name)
    (folder / "notes.txt").write_text("no image")
    (folder / ".thumbnails").mkdir()
    for name in ("._x.JPG", ".thumbnails/y.png"):
        (folder / name).write_bytes(b"what a file browser left here")
    data = image_folder.load(folder, None, 32)
    train, test = greys(data)
    assert len(train) + len(test) == COUNT + 4
    assert (train + test).count(200) == 4


def test_without_a_list_there_are_no_labels(folder: Path) -> None:
    """The labels are bool [n, 0], and a part is as long as its images."""
    data = image_folder.load(folder, None, 32)
    assert data.source.attributes == ()
    for split in (data.train, data.test):
        assert split.labels.shape == (len(split.images), 0)
        assert split.labels.dtype == torch.bool
        assert len(split) == len(split.images)


def test_the_source_is_named_after_the_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its name, a slug of it and a licence that points to the images, also where the folder is `.`."""
    monkeypatch.chdir(folder)
    for named in (folder, Path()):
        source = image_folder.load(named, 8, 32).source
        assert source.name == "My Pictures"
        assert source.slug == "my-pictures"
        assert source.licence == "that of the images in My Pictures"
        assert not source.exclusive
        assert source.held_out == "held-out part"
        assert source.preprocessing == {"crop": 8, "resize": [32, 32], "pad": 0}


def test_an_image_stays_in_its_part_when_others_are_added(folder: Path) -> None:
    """Held out is whose path's SHA-256 is a multiple of ten, so that both parts only grow."""
    train, test = greys(image_folder.load(folder, None, 32))
    assert train == [index for index in range(COUNT) if not is_held_out(file(index))]
    assert test == [index for index in range(COUNT) if is_held_out(file(index))]
    for index in range(COUNT, COUNT + 30):
        Image.new("L", (12, 10), index).save(folder / file(index))
    more_train, more_test = greys(image_folder.load(folder, None, 32))
    assert set(train) < set(more_train)
    assert set(test) < set(more_test)


def test_labels_come_from_the_list(folder: Path) -> None:
    """In any order of lines, with a byte order mark and an empty line, each image has its own labels."""
    rows = [f"{file(index)},{index & 1},{index >> 1 & 1}" for index in reversed(range(COUNT))]
    text = "\n".join(["\ufefffile,odd,second bit", *rows, "", ""])
    (folder / "attributes.csv").write_text(text, encoding="utf-8")
    data = image_folder.load(folder, None, 32)
    assert data.source.attributes == ("odd", "second bit")
    for split in (data.train, data.test):
        values = split.images[:, 0, 0, 0].tolist()
        assert split.labels.tolist() == [[bool(value & 1), bool(value & 2)] for value in values]


@pytest.mark.parametrize(
    ("line", "edit", "fault"),
    [
        (1, lambda _: "name,odd", "line 1: the header"),
        (1, lambda _: "file", "line 1: the header"),
        (1, lambda _: "file,", "line 1: the header"),
        (1, lambda _: "file,odd,odd", "line 1: the header"),
        (4, lambda row: row + ",1", "line 4: has 3 columns, 2 are wanted"),
        (4, lambda _: "002.png", "line 4: has 1 columns, 2 are wanted"),
        (5, lambda _: "003.png,-1", "line 5: has the value '-1', 0 or 1 is wanted"),
        (6, lambda _: "000.png,1", "line 6: 000.png has been listed before"),
        (6, lambda _: "x.png,1", "line 6: there is no image 'x.png'"),
        (6, lambda _: '"004.png"x,1', "line 6: "),
        (6, lambda _: "", "line 42: 1 images are not listed, 004.png the first"),
    ],
)
def test_a_bad_line_of_the_list_is_named(
    line: int, edit: Callable[[str], str], fault: str, folder: Path
) -> None:
    """The error is one line with the file, the line, what is wrong with it and what to do."""
    lines = ["file,odd", *(f"{file(index)},{index & 1}" for index in range(COUNT))]
    lines[line - 1] = edit(lines[line - 1])
    (folder / "attributes.csv").write_text("\n".join(lines))
    with pytest.raises(TrainingError) as caught:
        image_folder.load(folder, None, 32)
    message = str(caught.value)
    assert message.startswith(f"{folder / 'attributes.csv'}, {fault}")
    assert "\n" not in message
    assert "correct it, or take the file away" in message


@pytest.mark.parametrize("content", [b"", b"file,\xff\xfe"])
def test_a_list_that_is_empty_or_no_text_is_named(content: bytes, folder: Path) -> None:
    """The error has the file's path."""
    (folder / "attributes.csv").write_bytes(content)
    with pytest.raises(TrainingError, match=r"attributes.csv(, line 1| cannot be read)"):
        image_folder.load(folder, None, 32)


def test_without_a_folder_the_error_asks_for_one() -> None:
    """It names the option."""
    with pytest.raises(TrainingError, match="--data DIR"):
        image_folder.load(None, None, 32)


def test_a_folder_without_images_or_none_at_all_is_named(tmp_path: Path) -> None:
    """The error has its path and the option."""
    (tmp_path / "empty").mkdir()
    for name, fault in (("empty", "holds no image"), ("nowhere", "is no folder")):
        with pytest.raises(TrainingError, match=rf"{name} {fault}.* --data DIR"):
            image_folder.load(tmp_path / name, None, 32)


def test_too_few_images_of_a_part_are_an_error(folder: Path) -> None:
    """Two of each part are the least, and the error counts both."""
    held_out = [file(index) for index in range(COUNT) if is_held_out(file(index))]
    for name in held_out[1:]:
        (folder / name).unlink()
    with pytest.raises(
        TrainingError, match=rf"has {COUNT - len(held_out)} images .* and 1 in the held-out part"
    ):
        image_folder.load(folder, None, 32)


@pytest.mark.parametrize("size", [32, 64, 128])
def test_the_crop_is_exactly_the_centre(size: int, folder: Path) -> None:
    """A square of the crop's side, marked in the middle of a picture as CelebA's, fills the image to its edges."""
    picture = Image.new("RGB", (178, 218), "black")
    picture.paste((10, 200, 30), (15, 35, 15 + 148, 35 + 148))
    picture.save(folder / "a.png")
    image = images_of([folder / "a.png"], 148, size)[0]
    assert image.shape == (size, size, 3)
    assert (image == (10, 200, 30)).all()


def test_of_an_image_smaller_than_the_crop_the_largest_square_is_taken(folder: Path) -> None:
    """The square is centred, and brought up to the size."""
    picture = Image.new("RGB", (20, 30), "black")
    picture.paste((10, 200, 30), (0, 5, 20, 25))
    picture.save(folder / "a.png")
    assert (images_of([folder / "a.png"], 148, 64)[0] == (10, 200, 30)).all()


def test_of_a_picture_of_any_size_the_largest_square_is_taken(folder: Path) -> None:
    """A square as high as a broad picture is cut out of its middle, here and in the service."""
    picture = Image.new("RGB", (300, 200), "black")
    picture.paste((10, 200, 30), (50, 0, 250, 200))
    picture.paste((200, 0, 0), (80, 30, 220, 170))
    picture.save(folder / "a.png")
    image = images_of([folder / "a.png"], "square", 40)[0]
    assert (image[[0, 0, -1, -1], [0, -1, 0, -1]] == (10, 200, 30)).all()
    assert (image[20, 20] == (200, 0, 0)).all()
    how = Preprocessing("square", (40, 40), 0)
    ((service,),) = decode({"pictures": [(folder / "a.png").read_bytes()]}, (40, 40, 3), how)
    np.testing.assert_array_equal(image, service)


@pytest.mark.parametrize("crop", [None, 90, 50, "square"])
def test_a_picture_becomes_what_the_service_makes_of_it(crop: Crop, folder: Path) -> None:
    """Pictures of every mode and of the model's own size are to the byte what the service feeds the model."""
    modes = {
        "rgb.png": noise(100, 120),
        "rgb.jpg": noise(100, 120),
        "own-size.png": noise(64, 64),
        "grey.png": noise(100, 120, 1),
        "grey.jpg": noise(100, 120, 1),
        "cmyk.jpg": noise(100, 120).convert("CMYK"),
        "palette.png": noise(100, 120).quantize(64),
        "alpha.png": noise(100, 120, 4),
        "grey-alpha.png": noise(100, 120, 2),
        "black-white.png": noise(100, 120, 1).convert("1"),
        "grey-16.png": Image.fromarray(np.random.default_rng(7).integers(0, 2**16, (120, 100), np.uint16)),
    }
    for name, picture in modes.items():
        picture.save(folder / name)
    paths = [folder / name for name in modes]
    (service,) = decode(
        {"pictures": [path.read_bytes() for path in paths]}, (64, 64, 3), Preprocessing(crop, (64, 64), 0)
    )
    np.testing.assert_array_equal(images_of(paths, crop, 64), service)


def test_sixteen_bit_grey_is_scaled(folder: Path) -> None:
    """The upper eight bits are the grey."""
    Image.fromarray(np.full((20, 20), 0x7FFF, np.uint16)).save(folder / "a.png")
    assert (image_of(folder / "a.png") == 0x7F).all()


def test_a_transparent_palette_keeps_its_colours(folder: Path) -> None:
    """Pillow has nothing to warn of."""
    noise(20, 20, 4).quantize(16).save(folder / "a.png", transparency=b"\x00\x80")
    assert image_of(folder / "a.png").std() > 5


def test_a_photograph_is_set_upright(folder: Path) -> None:
    """The EXIF orientation of a camera held sideways is followed."""
    picture = Image.new("RGB", (40, 20), "black")
    picture.paste((255, 255, 255), (0, 0, 20, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # the left side of what is stored is the top
    picture.save(folder / "a.png", exif=exif)
    image = image_of(folder / "a.png")
    assert (image[:31] == 255).all()
    assert (image[33:] == 0).all()


def test_reducing_does_not_alias(folder: Path) -> None:
    """Stripes one pixel wide become their mean grey."""
    pixels = np.zeros((512, 512), np.uint8)
    pixels[:, ::2] = 255
    Image.fromarray(pixels).save(folder / "a.png")
    image = image_of(folder / "a.png").astype(int)
    assert abs(image - 127.5).max() < 8


def test_the_cache_is_used_again(folder: Path, cache: Path) -> None:
    """A file whose content changed behind the same size and time is not read, and nothing is written."""
    before = image_folder.load(folder, None, 32)
    written = {path: path.stat().st_mtime_ns for path in cache.iterdir()}
    path = folder / file(3)
    status = path.stat()
    path.write_bytes(bytes(status.st_size))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    after = image_folder.load(folder, None, 32)
    assert torch.equal(before.train.images, after.train.images)
    assert torch.equal(before.test.images, after.test.images)
    assert {path: path.stat().st_mtime_ns for path in cache.iterdir()} == written


def test_a_changed_image_renews_the_cache(folder: Path) -> None:
    """Another time of a file is enough."""
    image_folder.load(folder, None, 32)
    path = folder / file(3)
    Image.new("L", (12, 10), 250).save(path)
    os.utime(path, ns=(0, 10**9))
    train, test = greys(image_folder.load(folder, None, 32))
    assert 250 in train + test
    assert 3 not in train + test


def test_each_crop_and_size_has_its_own_cache(folder: Path, cache: Path) -> None:
    """Two sizes and three crops are six files, named after the first 16 digits of the fingerprints."""
    crops: tuple[Crop, ...] = (None, 8, "square")
    for size in (32, 64):
        for crop in crops:
            image_folder.load(folder, crop, size)
    assert len(list(cache.glob("[0-9a-f]" * 16 + ".npy"))) == 6
    assert len(list(cache.glob("*.json"))) == 6


def test_of_many_damaged_images_ten_are_named_and_all_are_listed(
    folder: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Eleven lines tell of twelve, the last with the count and the file that lists them all, from the cache too."""
    for index in range(COUNT, 1200):
        shutil.copy(folder / file(3), folder / file(index))
    damaged = {file(index) for index in range(COUNT, COUNT + 12)}
    for name in damaged:
        (folder / name).write_bytes(b"no image")
    for _ in range(2):
        caplog.clear()
        image_folder.load(folder, None, 32)
        *named, count = caplog.messages
        assert len(named) == 10
        assert all(" is left out: " in message for message in named)
        (told,) = cache.glob("*.json")
        assert count == f"12 of 1,200 images are left out, listed in {told}"
        assert json.loads(told.read_text())["skipped"].keys() == damaged


def test_of_several_processes_one_names_the_damaged_images(folder: Path, tmp_path: Path) -> None:
    """Under torchrun each process reads the cache, and a damaged image is told of once."""
    for index in range(COUNT, 120):
        shutil.copy(folder / file(3), folder / file(index))
    (folder / file(COUNT)).write_bytes(b"no image")
    # A batch of more images than there are ends the run once all processes have read theirs.
    process = start(
        *("fit", "celeba", "--batch-size", "1000", "--runs", str(tmp_path)), launcher=TORCHRUN, data=folder
    )
    _, error = process.communicate()
    assert "is more than the" in error
    assert error.count(" is left out: ") == 1
    assert error.count("1 of 120 images are left out") == 1


@pytest.mark.parametrize("fault", ["no json", "bad json", "json of another kind", "cut", "empty", "other"])
def test_a_damaged_cache_is_written_anew(fault: str, folder: Path, cache: Path) -> None:
    """Whatever lies in the cache's place, the images are right."""
    before = greys(image_folder.load(folder, None, 32))
    (array,) = cache.glob("*.npy")
    (told,) = cache.glob("*.json")
    if fault == "no json":
        array.write_bytes(array.read_bytes()[:-9])
        told.unlink()
    elif fault == "bad json":
        told.write_text("{")
    elif fault == "json of another kind":
        told.write_text("[]")
    elif fault == "cut":
        array.write_bytes(array.read_bytes()[:-9])
    elif fault == "empty":
        array.write_bytes(b"")
    else:
        np.save(array, np.zeros((COUNT, 64, 64, 3), np.uint8))
    assert greys(image_folder.load(folder, None, 32)) == before


def test_what_a_killed_process_left_is_removed(folder: Path, cache: Path) -> None:
    """No unfinished file of a cache stays, but what else is in the folder does."""
    cache.mkdir()
    for name in ("0123456789abcdef.npy.part", "0123456789abcdef.json.7.part", "download.part"):
        (cache / name).write_bytes(b"half")
    image_folder.load(folder, None, 32)
    assert [path.name for path in cache.glob("*.part")] == ["download.part"]


def test_two_at_once_get_the_same_images(folder: Path) -> None:
    """Neither disturbs the file of the other."""
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: greys(image_folder.load(folder, None, 32)), range(2))
    assert first == second
    assert sorted(first[0] + first[1]) == list(range(COUNT))


def resident(path: Path) -> tuple[range, int]:
    """The addresses that a file is mapped to in this process, and how many bytes of it are in memory."""
    lines = Path("/proc/self/smaps").read_text().splitlines()
    (first,) = [number for number, line in enumerate(lines) if line.endswith(f" {path}")]
    start, end = (int(address, 16) for address in lines[first].split()[0].split("-"))
    (size,) = [line.split()[1] for line in lines[first + 1 : first + 10] if line.startswith("Rss:")]
    return range(start, end), int(size) * 1024


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="asks Linux what is mapped")
def test_the_cache_is_mapped_and_not_read(folder: Path, cache: Path) -> None:
    """Both parts lie in the mapped file, of which memory holds nothing at first, and after a batch little more."""
    data = image_folder.load(folder, None, 256)
    (path,) = cache.glob("*.npy")
    addresses, held = resident(path)
    for part in (data.train, data.test):
        last = part.images.data_ptr() + part.images.nbytes - 1
        assert part.images.data_ptr() in addresses
        assert last in addresses
    assert held == 0
    config = replace(preset("celeba"), batch_size=2, latent_size=2)
    batch, _ = next(Loader(config, data.train.images, torch.device("cpu")).epoch(0))
    assert batch.shape == (2, 256, 256, 3)
    # The next batch is read ahead, and pages are mapped a few at a time.
    assert 0 < resident(path)[1] < 3 * batch.nbytes < path.stat().st_size / 6


def test_writing_to_an_image_leaves_the_cache_as_it_was(folder: Path) -> None:
    """The tensors may be written to, but not the file."""
    image_folder.load(folder, None, 32).train.images.zero_()
    train, test = greys(image_folder.load(folder, None, 32))
    assert sorted(train + test) == list(range(COUNT))


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from training.data import image_folder
from training.errors import TrainingError

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), unlimited[1]))
try:
    image_folder.load(Path(sys.argv[1]), None, 64)
except TrainingError as error:
    message = str(error)
resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
sys.stdout.write(message)
"""


# The second limit lets the header and most images through.
@pytest.mark.parametrize("limit", [64, (COUNT - 1) * 64 * 64 * 3])
def test_a_full_disk_leaves_nothing_behind(limit: int, folder: Path, cache: Path) -> None:
    """One line says where room is wanted and how to name another place, and no part of the cache stays."""
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, folder, str(limit)], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(f"the cache of images cannot be written to {cache} (File too large): ")
    assert "ARMOIRE_CACHE" in done.stdout
    assert "\n" not in done.stdout
    assert [path.name for path in cache.iterdir()] == [".lock"]


def test_a_cache_that_cannot_be_made_is_an_error(folder: Path, cache: Path) -> None:
    """One line names its place and the variable."""
    cache.write_text("a file")
    with pytest.raises(TrainingError, match=r"cannot be written to .*cache \(.*ARMOIRE_CACHE"):
        image_folder.load(folder, None, 32)


def test_the_cache_moves_with_the_folder(folder: Path, tmp_path: Path, cache: Path) -> None:
    """A copy with the same names, sizes and times needs no second cache."""
    image_folder.load(folder, None, 32)
    shutil.copytree(folder, tmp_path / "copy")
    image_folder.load(tmp_path / "copy", None, 32)
    assert len(list(cache.glob("*.npy"))) == 1


def test_a_cache_is_looked_for_at_home_if_none_is_named(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is ~/.cache/armoire."""
    monkeypatch.delenv("ARMOIRE_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    image_folder.load(folder, None, 32)
    assert len(list((tmp_path / "home" / ".cache" / "armoire").glob("*.npy"))) == 1
