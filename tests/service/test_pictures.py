"""Walls of images as one picture, and files that are written whole or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from armoire import pictures


def images(n: int, height: int, width: int, channels: int = 1) -> np.ndarray:
    return np.random.default_rng(n).integers(0, 255, (n, height, width, channels), np.uint8)


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 11),
    columns=st.integers(1, 12),
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    channels=st.sampled_from([1, 3]),
)
def test_every_image_lies_at_its_place_on_the_wall(
    n: int, columns: int, height: int, width: int, channels: int
) -> None:
    """Image i is at row i // columns and column i % columns, enlarged by a whole factor; the rest is white."""
    wall = images(n, height, width, channels)
    picture = np.asarray(pictures.grid(wall, columns)).reshape(
        -1, pictures.grid(wall, columns).width, channels
    )
    scale = max(1, pictures.LEAST_SIDE // max(height, width))
    step_y, step_x = height * scale + pictures.GAP, width * scale + pictures.GAP
    assert picture.shape == (
        -(-n // columns) * step_y + pictures.GAP,
        columns * step_x + pictures.GAP,
        channels,
    )
    rest = picture.astype(np.int32).copy()
    for i, image in enumerate(wall):
        y, x = pictures.GAP + i // columns * step_y, pictures.GAP + i % columns * step_x
        tile = picture[y : y + height * scale, x : x + width * scale]
        np.testing.assert_array_equal(tile[::scale, ::scale], image)
        np.testing.assert_array_equal(tile[scale - 1 :: scale, scale - 1 :: scale], image)
        rest[y : y + height * scale, x : x + width * scale] = pictures.BACKGROUND
    assert (rest == pictures.BACKGROUND).all()


@pytest.mark.parametrize(("n", "columns"), [(1, 1), (2, 2), (4, 2), (5, 3), (64, 8)])
def test_a_wall_is_nearly_a_square_unless_told(n: int, columns: int) -> None:
    """Without a number of columns there are as many as the rounded-up square root."""
    assert pictures.grid(images(n, 32, 32)).size == pictures.grid(images(n, 32, 32), columns).size


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_a_picture_has_the_mode_of_its_channels(channels: int, mode: str) -> None:
    """One channel is a grey picture, three are an RGB one, with the same pixels."""
    (pixels,) = images(1, 4, 5, channels)
    picture = pictures.to_image(pixels)
    assert (picture.mode, picture.size) == (mode, (5, 4))
    np.testing.assert_array_equal(np.asarray(picture).reshape(4, 5, channels), pixels)


def test_a_saved_picture_is_a_png_with_its_pixels_and_nothing_beside_it(tmp_path: Path) -> None:
    """The file is a PNG whatever its name ends in, replaces what was there, and leaves no part behind."""
    (pixels,) = images(1, 9, 7)
    path = tmp_path / "wall.jpg"
    path.write_bytes(b"old")
    pictures.save(pictures.to_image(pixels), path)
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        np.testing.assert_array_equal(np.asarray(picture), pixels[..., 0])
    assert list(tmp_path.iterdir()) == [path]


def test_a_save_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    """When the picture cannot be written the old file is as it was, and no part of a new one stays."""
    path = tmp_path / "wall.png"
    path.write_bytes(b"old")
    with pytest.raises(OSError, match="cannot write mode"):
        pictures.save(Image.new("HSV", (4, 4)), path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["no/such/folder.png", "folder", "folder/.."])
def test_a_place_that_cannot_be_written_to_is_an_os_error(tmp_path: Path, name: str) -> None:
    """A missing folder, or a folder where the file should go, is the OSError that the command line reports."""
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match=r".+"):
        pictures.save(Image.new("L", (4, 4)), tmp_path / name)
    assert [path.name for path in tmp_path.rglob("*")] == ["folder"]


def test_the_current_folder_is_no_file_to_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The path "." is an OSError like any other folder."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OSError, match=r".+"):
        pictures.save(Image.new("L", (4, 4)), Path())
    assert not list(tmp_path.iterdir())
