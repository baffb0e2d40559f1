"""What was measured of faces, on photographs that are not in this repository: it is what README says and promises."""

import json
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
README = (HERE.parent.parent / "README.md").read_text()
STRENGTHS = ("0.5", "1.0", "2.0")


def measured(preset: str) -> dict[str, Any]:
    """The metrics.json that `evaluate` wrote of a run, rounded, without its longest lists."""
    figures: dict[str, Any] = json.loads((HERE / "measured" / f"{preset}.json").read_text())
    return figures


FACES, BOOK = measured("celeba"), measured("book-celeba")


def at_strengths(figures: dict[str, Any], what: str) -> list[float]:
    return [figures[f"{what}_at_{strength}"] for strength in STRENGTHS]


def test_the_faces_keep_their_promises() -> None:
    """Error, active units, samples of the default prior, attributes: all that was to be reached in 45 minutes is."""
    assert FACES["run"]["seed"] == 1
    assert FACES["run"]["seconds"] <= 45 * 60
    assert FACES["mse"] <= 0.0055
    assert FACES["active_units"] >= 100
    distances, books = FACES["frechet"], BOOK["frechet"]
    assert distances["fitted"] <= 1.2 * distances["reconstructions"]
    assert distances["reconstructions"] <= 0.4 * books["reconstructions"]
    assert distances["floor"] < distances["reconstructions"]
    assert distances["images"] == books["images"] == FACES["images"] == 1587
    assert FACES["auc"] >= 0.87
    _, at_one, at_two = at_strengths(FACES, "flip_rate")
    assert at_one >= 0.25
    assert at_two >= 0.5


ROWS = {
    "MSE from the mean (200 principal components: 0.00368)": lambda m: f"{m['mse']:.5f}",
    "PSNR, dB": lambda m: f"{m['psnr']:.1f}",
    "rate, nats": lambda m: f"{m['rate']:.1f}",
    "bits per dimension, sigma frozen from training": lambda m: f"{m['bits_per_dimension']:.2f}",
    "active units of 200": lambda m: f"{m['active_units']}",
    "KL of the aggregate posterior's moments from N(0, I), nats": lambda m: (
        f"{m['aggregate_gaussian_kl']:.1f}"
    ),
    "FD of reconstructions (as many training images: 2.2)": lambda m: (
        f"{m['frechet']['reconstructions']:.1f}"
    ),
    "FD of samples of N(0, I); over that of reconstructions": lambda m: against_reconstructions(m, "normal"),
    "FD of samples of the fitted prior; over that of reconstructions": lambda m: against_reconstructions(
        m, "fitted"
    ),
    "AUC; of a logistic regression on the same latents": lambda m: f"{m['auc']:.3f}; {m['auc_logistic']:.3f}",
    "flips at strength 0.5, 1 and 2": lambda m: listed(m, "flip_rate"),
    "leakage at strength 0.5, 1 and 2": lambda m: listed(m, "leakage"),
    "cycle cosine at strength 0.5, 1 and 2": lambda m: listed(m, "cycle_cosine"),
    "trained, on one busy core of an AMD EPYC": lambda m: f"{m['run']['seconds']:,.0f} s",
}


def against_reconstructions(figures: dict[str, Any], prior: str) -> str:
    distances = figures["frechet"]
    return f"{distances[prior]:.1f}; {distances[prior] / distances['reconstructions']:.2f}"


def listed(figures: dict[str, Any], what: str) -> str:
    return ", ".join(f"{value:.2f}" for value in at_strengths(figures, what))


@pytest.mark.parametrize("row", ROWS)
def test_readme_tells_what_was_measured(row: str) -> None:
    """Each row of its table of faces is that of the two runs, rounded."""
    assert f"| {row} | {ROWS[row](FACES)} | {ROWS[row](BOOK)} |" in README


def test_readme_names_the_commits_of_the_runs() -> None:
    """Whoever wants to train as it was done then finds of what."""
    for figures in (FACES, BOOK):
        assert f"`{figures['run']['commit'][:7]}`" in README
