"""Evaluation: all of the test set, each figure against its definition."""

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.training.conftest import SLICE
from training import loss, randomness
from training.__main__ import main
from training.config import Config
from training.data import Data, Split, as_pixels
from training.evaluate import evaluate, losses_on
from training.measures import aggregate
from training.measures.aggregate import ROWS
from training.model import Autoencoder, Posterior
from training.running import checkpoint


@pytest.fixture(scope="module")
def model(runs: Path, data: Data) -> Autoencoder:
    return checkpoint.load_model(runs / "fashion")[0]


@torch.no_grad()
def test_every_image_counts_the_same_in_an_uneven_last_batch_too(model: Autoencoder, data: Data) -> None:
    """On 1,203 images the figures equal those of one pass over all of them at once."""
    split = Split(data.train.images[:1203], data.train.labels[:1203])
    assert len(split) % ROWS
    pixels = as_pixels(split.images)
    posterior = model.encoder(pixels)
    noise = randomness.noise(model.config.seed, "evaluation", 1203, 16)
    latents = loss.sample(*posterior, noise)
    distortion = loss.bernoulli_distortion(model.decoder(latents), pixels).mean()
    rate = loss.rate_per_dimension(*posterior)
    rebuilt = model.decoder(posterior.mean).sigmoid()
    figures = evaluate(model, split)
    assert figures["images"] == 1203
    assert figures["distortion"] == pytest.approx(float(distortion), rel=1e-5)
    assert figures["rate"] == pytest.approx(float(rate.sum(1).mean()), rel=1e-5)
    assert figures["sum"] == pytest.approx(figures["distortion"] + figures["rate"])
    assert figures["mse"] == pytest.approx(float((rebuilt - pixels).square().mean()), rel=1e-5)
    assert figures["rate_per_dimension"] == pytest.approx(rate.mean(0).tolist(), rel=1e-4, abs=1e-6)
    assert losses_on(model, split) == pytest.approx((figures["distortion"], figures["rate"]), rel=1e-6)


def test_the_last_image_is_not_left_out(model: Autoencoder, data: Data) -> None:
    """Changing the very last image changes every figure that is a mean over images."""
    split = Split(data.train.images[:1203], data.train.labels[:1203])
    changed = Split(split.images.clone(), split.labels)
    changed.images[-1] = 255 - changed.images[-1]
    before, after = evaluate(model, split), evaluate(model, changed)
    for name in ("distortion", "rate", "mse"):
        assert before[name] != after[name]


def test_a_dimension_that_hardly_moves_is_not_active(model: Autoencoder, data: Data) -> None:
    """Silencing the weights of three means leaves three active units fewer."""
    before = evaluate(model, data.test)
    order = torch.tensor(before["variance_of_means"]).argsort(descending=True)
    silenced = Autoencoder(model.config).eval()
    silenced.load_state_dict(model.state_dict())
    with torch.no_grad():
        for layer in (silenced.encoder.mean, silenced.encoder.linear):
            assert layer is not None
            layer.weight[order[:3]] = 0
    assert before["active_units"] == sum(variance > 0.01 for variance in before["variance_of_means"])
    assert before["active_units"] >= 3
    assert evaluate(silenced, data.test)["active_units"] == before["active_units"] - 3


class OneGrey(torch.nn.Module):
    """A decoder that makes every image of one middle grey."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(1))  # tells the device

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(latents), 1, 32, 32)


class OnePosterior(torch.nn.Module):
    """An encoder that says the same of every image."""

    def forward(self, pixels: torch.Tensor) -> Posterior:
        return Posterior(torch.ones(len(pixels), 2), torch.full((len(pixels), 2), math.log(0.25)))


def test_decibels_and_bits_are_those_of_the_closed_form() -> None:
    """Where one Gaussian stands for all images, PSNR and bits per dimension follow from its error and its density."""
    model = Autoencoder(Config(preset="grey", latent_size=2, likelihood="gaussian")).eval()
    model.encoder, model.decoder = OnePosterior(), OneGrey()  # type: ignore[assignment]
    variance = 0.07
    model.sigma_log_variance.fill_(math.log(variance))
    images = torch.randint(0, 256, (6, 32, 32, 1), generator=torch.Generator().manual_seed(0)).byte()
    figures = evaluate(model, Split(images, torch.zeros(6, dtype=torch.int64)))
    pixels = images.double() / 255
    error = float((pixels - 0.5).square().mean())
    assert figures["psnr"] == pytest.approx(-10 * math.log10(error))
    # Two latents of N(1, 1/4) against N(0, 1), spread over the pixels; a grey level is 1/255 of the range wide.
    rate = 0.25 + 1 - 1 - math.log(0.25)
    nats = 0.5 * math.log(2 * math.pi * variance) + error / (2 * variance) + math.log(255) + rate / 1024
    assert figures["bits_per_dimension"] == pytest.approx(nats / math.log(2))


@given(shift=st.floats(-3, 3), log_variance=st.floats(-3, 0))
def test_divergence_of_the_moments_is_the_one_of_two_gaussians(shift: float, log_variance: float) -> None:
    """Means at +-1 off the shift and one posterior variance make a Gaussian whose KL is known in closed form."""
    mean = torch.tensor([[shift + 1.0, 0.0], [shift - 1.0, 0.0]], dtype=torch.float64)
    posterior = Posterior(mean, torch.full((2, 2), log_variance, dtype=torch.float64))
    first, second = 1 + math.exp(log_variance), math.exp(log_variance)
    expected = 0.5 * (first + second + shift**2 - 2 - math.log(first * second))
    assert aggregate.gaussian_divergence(posterior, variational=True) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("size", [2, 16])
def test_discrepancy_is_zero_for_the_prior_and_grows_with_distance(size: int) -> None:
    """Draws of N(0, I) have a squared MMD of nearly 0; shifted or stretched ones have more."""
    z = torch.randn(4000, size, generator=torch.Generator().manual_seed(1))
    same = aggregate.maximum_mean_discrepancy(z)
    assert abs(same) < 5e-4
    assert aggregate.maximum_mean_discrepancy(z + 0.3) > 10 * abs(same)
    assert aggregate.maximum_mean_discrepancy(z * 1.5) > 10 * abs(same)


@given(seed=st.integers(0, 1000))
@settings(max_examples=10, deadline=None)
def test_discrepancy_is_that_of_two_samples(seed: int) -> None:
    """The closed form agrees with the plain two-sample estimate against many draws of N(0, I)."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(300, 2, generator=generator) * 0.7 + 0.5
    prior = torch.randn(4000, 2, generator=generator)

    def kernel(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return torch.exp(-torch.cdist(a, b).square() / 4)

    within = (kernel(z, z).sum() - 300) / (300 * 299)
    among = (kernel(prior, prior).sum() - 4000) / (4000 * 3999)
    expected = within + among - 2 * kernel(z, prior).mean()
    assert aggregate.maximum_mean_discrepancy(z) == pytest.approx(float(expected), abs=0.02)


def test_the_command_writes_json_and_prints_one_table(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A column per preset in the order given; no rate and no sum for the plain autoencoder; all 500 images."""
    presets = ["fashion-autoencoder-2d", "fashion-2d", "fashion"]
    assert main(["evaluate", *presets, "--data", str(SLICE), "--runs", str(runs)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 110
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == ["preset", *presets]
    told = {name: values for name, *values in cells[2:]}
    for name in presets:
        figures = json.loads((runs / name / "metrics.json").read_text())
        assert figures["images"] == 500
        assert figures["epochs"] == 6
        plain = name == "fashion-autoencoder-2d"
        assert (figures["rate"] is None) == (figures["sum"] is None) == plain
        column = presets.index(name)
        assert told["PSNR, dB"][column] == f"{figures['psnr']:.2f}"
        few = ", ".join(f"{accuracy['100']:.2f}" for accuracy in figures["few_labels"].values())
        assert told["100 labels: means, pixels, PCA"][column] == few
        for label, key in (("flips", "flip_rate"), ("leakage", "leakage"), ("cycle cosine", "cycle_cosine")):
            values = [figures[f"{key}_at_{strength}"] for strength in ("0.5", "1.0", "2.0")]
            expected = ", ".join("-" if value is None else f"{value:.2f}" for value in values)
            assert told[f"{label} at 0.5, 1, 2"][column] == expected
    assert told["rate"][0] == told["their sum"][0] == told["nearest image: samples, rec."][0] == "-"
    assert told["their sum"][2] == f"{figures['sum']:.2f}"
    assert told["samples that repeat one"][2] == f"{figures['neighbours']['repeated']:.4f}"
    # Of binary cross-entropy there are no such bits.
    assert "bits per dimension" not in told


def test_a_run_on_other_data_is_not_measured_on_these(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A checkpoint that names other data gets exit code 2 and one line with both names."""
    state = checkpoint.load(runs / "fashion")
    checkpoint.save(tmp_path / "fashion", {**state, "data": "MNIST"})
    assert main(["evaluate", "fashion", "--data", str(SLICE), "--runs", str(tmp_path)]) == 2
    assert "trained on MNIST" in capsys.readouterr().err


def test_a_reader_of_old_figures_is_not_disturbed(runs: Path) -> None:
    """metrics.json is written beside and renamed: who has the old file open reads it to its end."""
    options = ["--data", str(SLICE), "--runs", str(runs)]
    file = runs / "fashion" / "metrics.json"
    file.write_text("old")
    with file.open() as reader:
        assert main(["evaluate", "fashion", *options]) == 0
        assert reader.read() == "old"
    assert json.loads(file.read_text())["preset"] == "fashion"
    assert not list(file.parent.glob("*.part"))
