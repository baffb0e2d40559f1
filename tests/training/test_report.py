"""The report: one page that needs nothing else, with its pictures beside it."""

import base64
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.training.conftest import SLICE
from training.__main__ import main
from training.drawing import pictures
from training.running import checkpoint

PRESETS = ("fashion-autoencoder-2d", "fashion-2d", "fashion")
VARIATIONAL = {"fitted", "neighbours", "strips", "changes"}
EVERY = {"reconstructions", "samples", "interpolation", "histograms", "curves"}


@pytest.fixture(scope="module")
def report(runs: Path) -> Path:
    assert main(["report", *PRESETS, "--data", str(SLICE), "--runs", str(runs)]) == 0
    return runs / "report"


def test_the_page_needs_nothing_from_elsewhere(report: Path) -> None:
    """Every picture is a data URI, no script, no style sheet, no link leads out of the page."""
    page = (report / "index.html").read_text()
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert sources
    assert all(source.startswith(("data:image/png;base64,", "#")) for source in sources)
    assert not re.search(r"<script|<link|@import|url\(|https?://", page)
    for target in re.findall(r'href="#([^"]*)"', page):
        assert f'id="{target}"' in page


def test_every_picture_lies_beside_the_page_and_in_it(report: Path) -> None:
    """The PNGs beside are those that the page shows, and each opens."""
    page = (report / "index.html").read_text()
    embedded = {base64.b64decode(text) for text in re.findall(r"data:image/png;base64,([^\"]+)", page)}
    assert embedded == {path.read_bytes() for path in report.glob("*.png")}
    for path in report.glob("*.png"):
        with Image.open(path) as image:
            image.load()


def test_each_model_has_the_pictures_that_it_can_have(report: Path) -> None:
    """The wall is drawn in two dimensions only, and the fitted prior of variational models only."""
    drawn = {name: {path.stem for path in report.glob("*.png")} for name in PRESETS}
    expected = {
        "fashion-autoencoder-2d": EVERY | {"scatter", "wall"},
        "fashion-2d": EVERY | VARIATIONAL | {"scatter", "wall"},
        "fashion": EVERY | VARIATIONAL,
    }
    names = {f"{preset}-{name}" for preset, parts in expected.items() for name in parts}
    assert drawn["fashion"] == names


def test_the_page_sets_the_autoencoder_beside_the_variational_one(
    report: Path, runs: Path, tmp_path: Path
) -> None:
    """The comparison shows both walls, samples and histograms, and is left out where there is only one of the two."""
    page = (report / "index.html").read_text()
    comparison = page[page.index('id="comparison"') : page.index('id="fashion-autoencoder-2d"')]
    for name in ("scatter", "wall", "samples", "histograms"):
        for preset in ("fashion-autoencoder-2d", "fashion-2d"):
            png = base64.b64encode((report / f"{preset}-{name}.png").read_bytes()).decode()
            assert png in comparison
    options = ["--data", str(SLICE), "--runs", str(runs), "--out", str(tmp_path)]
    assert main(["report", "fashion-2d", *options]) == 0
    assert 'id="comparison"' not in (tmp_path / "index.html").read_text()


def test_a_run_that_was_stopped_in_its_first_epoch_has_no_curves(runs: Path, tmp_path: Path) -> None:
    """Without an epoch behind it a model is drawn all the same, its curves left out."""
    state = checkpoint.load(runs / "fashion-2d")
    checkpoint.save(tmp_path / "fashion-2d", state | {"history": []})
    assert main(["report", "fashion-2d", "--data", str(SLICE), "--runs", str(tmp_path)]) == 0
    names = {path.stem.removeprefix("fashion-2d-") for path in (tmp_path / "report").glob("*.png")}
    assert names == EVERY - {"curves"} | VARIATIONAL | {"scatter", "wall"}
    assert "loss curves" not in (tmp_path / "report" / "index.html").read_text()


def test_a_reader_of_an_old_report_is_not_disturbed(report: Path, runs: Path, tmp_path: Path) -> None:
    """Page and pictures are written beside and renamed: who has an old one open reads it to its end."""
    files = [tmp_path / name for name in ("index.html", "fashion-2d-curves.png")]
    for file in files:
        file.write_text("old")
    with files[0].open() as page, files[1].open() as picture:
        options = ["--data", str(SLICE), "--runs", str(runs), "--out", str(tmp_path)]
        assert main(["report", "fashion-2d", *options]) == 0
        assert (page.read(), picture.read()) == ("old", "old")
    assert files[1].read_bytes() == (report / files[1].name).read_bytes()
    assert not list(tmp_path.glob("*.part"))


def test_originals_stand_over_their_reconstructions() -> None:
    """Rows alternate: a row of the first set, then the same row of the second."""
    above, below = np.arange(6).reshape(6, 1, 1, 1), 10 + np.arange(6).reshape(6, 1, 1, 1)
    assert pictures.interleave(above, below, 3).ravel().tolist() == [0, 1, 2, 10, 11, 12, 3, 4, 5, 13, 14, 15]


@given(count=st.integers(1, 30), columns=st.integers(1, 7), channels=st.sampled_from([1, 3]))
@settings(max_examples=30, deadline=None)
def test_a_grid_holds_every_image_in_its_place(count: int, columns: int, channels: int) -> None:
    """Image i is found, untouched, in row i // columns and column i % columns."""
    images = np.random.default_rng(count).integers(0, 256, (count, 5, 4, channels), dtype=np.uint8)
    paper = np.asarray(pictures.grid(images, columns, gap=2)).reshape(-1, columns * 6 - 2, channels)
    for index, image in enumerate(images):
        top, left = index // columns * 7, index % columns * 6
        assert np.array_equal(paper[top : top + 5, left : left + 4], image)


def test_the_wall_runs_over_the_quantiles_with_up_at_the_top() -> None:
    """The first point is left and up, the last right and down, at quantiles 0.01 and 0.99 of each dimension."""
    means = torch.stack([torch.linspace(0, 1, 101), torch.linspace(0, 10, 101)], dim=1)
    wall = pictures.wall_latents(means, 5)
    assert wall.shape == (25, 2)
    torch.testing.assert_close(wall[0], torch.tensor([0.01, 9.9]))
    torch.testing.assert_close(wall[4], torch.tensor([0.99, 9.9]))
    torch.testing.assert_close(wall[-1], torch.tensor([0.99, 0.1]))


@given(steps=st.integers(2, 20), seed=st.integers(0, 1000))
def test_a_path_starts_at_one_end_and_ends_at_the_other(steps: int, seed: int) -> None:
    """Both ends are on the line, bit for bit, and the steps between them are even."""
    start, end = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(seed))
    path = pictures.path_latents(start, end, steps).reshape(3, steps, 4)
    assert torch.equal(path[:, 0], start)
    assert torch.equal(path[:, -1], end)
    torch.testing.assert_close(
        path.diff(dim=1), ((end - start) / (steps - 1))[:, None].expand(3, steps - 1, 4)
    )
