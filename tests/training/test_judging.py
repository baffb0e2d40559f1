"""What evaluate says of edits, of few labels and of neighbours, against cases where the answer is known."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from training.config import preset
from training.data import Data, Source, Split
from training.measures import edits, few_labels, neighbours
from training.measures.subject import Subject
from training.model import Autoencoder, Posterior


class Corners:
    """A judge that sees three attributes: whether each of three corners of an image is bright."""

    @staticmethod
    def told(images: Tensor, _: Source) -> Tensor:
        return torch.stack([images[:, 0, 0, 0], images[:, 0, -1, 0], images[:, -1, 0, 0]], 1) > 127


class Three(torch.nn.Module):
    """A decoder whose three latents are the brightness of the three corners."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(1))  # tells the device

    def forward(self, latents: Tensor) -> Tensor:
        images = torch.full((len(latents), 1, 32, 32), -5.0)
        images[:, 0, 0, 0], images[:, 0, 0, -1], images[:, 0, -1, 0] = latents.T
        return images


class Corner(torch.nn.Module):
    """The encoder that undoes it, up to the clipping of grey levels."""

    def forward(self, pixels: Tensor) -> Posterior:
        corners = torch.stack([pixels[:, 0, 0, 0], pixels[:, 0, 0, -1], pixels[:, 0, -1, 0]], 1)
        mean = corners.clamp(0.002, 0.998).logit()
        return Posterior(mean, torch.full_like(mean, -6.0))


@pytest.fixture
def subject() -> Subject:
    """400 images of independent corners; the second is bright wherever the third is, in one half of the images."""
    generator = torch.Generator().manual_seed(0)
    latents = 2 * torch.randn(800, 3, generator=generator)
    model = Autoencoder(replace(preset("fashion"), latent_size=3)).eval()
    model.encoder, model.decoder = Corner(), Three()  # type: ignore[assignment]
    images = (model.decoder(latents).sigmoid() * 255).round().byte().permute(0, 2, 3, 1)
    labels = latents > 0
    source = Source("s", "s", "MIT", ("a", "b", "c"), exclusive=False, held_out="test", preprocessing={})
    data = Data(source, Split(images[:400], labels[:400]), Split(images[400:], labels[400:]))
    subject = Subject(model, data, runs=None)  # type: ignore[arg-type]
    vars(subject)["judge"] = Corners()
    return subject


def test_an_edit_that_does_what_it_says_flips_and_does_not_leak(subject: Subject) -> None:
    """Twice the class distance along a corner's own axis makes all dark ones bright, and touches no other."""
    found = edits.quality(subject)
    assert found.keys() == {"a", "b", "c"}
    for figures in found.values():
        rates = list(figures["flip_rate"].values())
        assert rates == sorted(rates)
        assert rates[1] > 0.8
        assert rates[2] > 0.99
        assert figures["leakage"]["1.0"] < 0.1
        assert figures["cycle_cosine"]["0.5"] > 0.97
        assert 100 < figures["images"] < 300


def test_an_edit_that_brings_another_along_leaks(subject: Subject) -> None:
    """A direction that moves two corners flips the other one too: leakage is half of it, over two others."""
    both = replace(subject.attributes[0], direction=np.array([9.0, 9.0, 0.0]))
    vars(subject)["attributes"] = [both]
    figures = edits.quality(subject)["a"]
    assert figures["flip_rate"]["2.0"] == 1
    # About half of the second corners were dark before, and there is one more other attribute, which stays.
    assert figures["leakage"]["2.0"] == pytest.approx(0.25, abs=0.05)


def test_an_edit_that_does_nothing_has_no_leakage(subject: Subject) -> None:
    """Where nothing flips there is nothing to divide by."""
    still = replace(subject.attributes[0], direction=np.array([1e-3, 0.0, 0.0]))
    vars(subject)["attributes"] = [still]
    assert edits.quality(subject)["a"]["leakage"]["0.5"] is None


def test_classes_leak_into_third_classes(subject: Subject) -> None:
    """Of classes that exclude each other the leakage is the share that turns into a third one, over the flips."""

    class Brightest(Corners):
        @staticmethod
        def told(images: Tensor, _: Source) -> Tensor:
            corners = torch.stack([images[:, 0, 0, 0], images[:, 0, -1, 0], images[:, -1, 0, 0]], 1)
            return torch.nn.functional.one_hot(corners.argmax(1), 3).bool()

    data = subject.data
    classes = replace(data, source=replace(data.source, exclusive=True))
    judged = Subject(subject.model, classes, runs=None)  # type: ignore[arg-type]
    vars(judged)["judge"] = Brightest()
    step = torch.tensor([2.0, 3.0, 0.0])
    vars(judged)["attributes"] = [replace(subject.attributes[0], direction=step.double().numpy())]
    latents = judged.test.mean
    before, after = latents.argmax(1), (latents + step).argmax(1)
    lacking = before != 0
    flips = (after == 0)[lacking].float().mean()
    third = ((after != 0) & (after != before))[lacking].float().mean()
    assert min(float(flips), float(third)) > 0.05
    figures = edits.quality(judged)["a"]
    # It sees 250 of the 400 images.
    assert figures["flip_rate"]["1.0"] == pytest.approx(float(flips), abs=0.08)
    assert figures["leakage"]["1.0"] == pytest.approx(float(third / flips), rel=0.35)


def posterior(latents: Tensor) -> Posterior:
    return Posterior(latents, torch.zeros_like(latents))


def test_few_labels_are_worth_more_in_features_that_know_the_classes(data: Data) -> None:
    """One label of each class is nearly enough where the latents are the classes, and little where they are noise."""
    axes = 5 * torch.eye(10)
    noise = torch.Generator().manual_seed(1)
    known, unseen = (
        axes[part.labels] + torch.randn(len(part), 10, generator=noise) for part in (data.train, data.test)
    )
    found = few_labels.accuracy(data, posterior(known), posterior(unseen), seed=1)
    assert found is not None
    assert found.keys() == {"encoder means", "pixels", "principal components"}
    assert found["encoder means"].keys() == {"10", "100", "1000"}
    assert found["encoder means"]["10"] > 0.85
    assert found["encoder means"]["1000"] > 0.99
    assert 0.3 < found["pixels"]["10"] < found["pixels"]["100"] < found["pixels"]["1000"] < 0.95
    drawn = [torch.randn(len(part), 10, generator=noise) for part in (data.train, data.test)]
    noisy = few_labels.accuracy(data, posterior(drawn[0]), posterior(drawn[1]), seed=1)
    assert noisy is not None
    assert noisy["encoder means"]["100"] < 0.2


def test_few_labels_need_labels(data: Data) -> None:
    """Without any, or with one class alone, there is no such figure."""
    same = replace(
        data,
        train=Split(data.train.images, 0 * data.train.labels),
        test=Split(data.test.images, 0 * data.test.labels),
    )
    assert (
        few_labels.accuracy(same, posterior(torch.zeros(1500, 2)), posterior(torch.zeros(500, 2)), seed=1)
        is None
    )
    bare = replace(data, source=replace(data.source, attributes=()))
    empty = posterior(torch.zeros(1, 2))
    assert few_labels.accuracy(bare, empty, empty, seed=1) is None


def test_the_nearest_training_image_is_found_mirrored_or_not(data: Data) -> None:
    """A training image and its mirror image are at no distance from it."""
    rows = torch.tensor([3, 700, 1499])
    for images in (data.train.images[rows], data.train.images[rows].flip(2)):
        found = neighbours.nearest(images, data.train.images)
        assert found.rows.tolist() == rows.tolist()
        assert found.distances.max() < 1e-3


def test_repeated_images_are_noticed(data: Data) -> None:
    """Samples that are training images, a little brighter, are told from images that were held out."""
    repeated = (data.train.images[:200].int() + 1).clamp(max=255).byte()
    assert neighbours.comparison(repeated, data.test.images, data.train.images)["repeated"] == 1
    others = neighbours.comparison(data.test.images[:250], data.test.images[250:], data.train.images)
    assert others["repeated"] < 0.05
    assert others["samples_median"] == pytest.approx(others["held_out_median"], rel=0.2)
