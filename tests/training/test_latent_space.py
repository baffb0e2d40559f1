"""Directions and the fitted prior, against their definitions."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import distributions

from training import loss
from training.data import Source
from training.measures import attributes, mixture
from training.measures.mixture import Mixture
from training.model import Posterior


def clusters(counts: tuple[int, ...], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts)), counts)
    centres = 8 * np.eye(len(counts))
    return centres[labels] + generator.standard_normal((len(labels), len(counts))), labels


def classes(names: str) -> Source:
    return Source("s", "s", "MIT", tuple(names), exclusive=True, held_out="test", preprocessing={})


def test_strength_one_leads_from_the_rest_to_the_members() -> None:
    """The mean of the rest plus the direction is the mean of the members, and the norm is their distance."""
    means, labels = clusters((40, 40, 40))
    for label, found in enumerate(attributes.find(classes("abc"), means, labels, means, labels)):
        members, rest = means[labels == label].mean(0), means[labels != label].mean(0)
        np.testing.assert_allclose(rest + found.direction, members)
        assert found.norm == pytest.approx(np.linalg.norm(members - rest))
        assert (found.positives, found.negatives) == (40, 80)


def test_the_rest_is_balanced() -> None:
    """A class of many images does not pull the rest towards itself: every other class counts the same."""
    means, labels = clusters((50, 500, 20))
    found = attributes.find(classes("abc"), means, labels, means, labels)[0]
    centres = [means[labels == label].mean(0) for label in range(3)]
    np.testing.assert_allclose(found.direction, centres[0] - (centres[1] + centres[2]) / 2)


def test_auc_is_one_for_what_can_be_told_apart_and_a_half_for_what_cannot() -> None:
    """Far clusters give 1; a test split with labels at random gives about one half."""
    means, labels = clusters((200, 200))
    shuffled = np.random.default_rng(1).permutation(labels)
    assert attributes.find(classes("ab"), means, labels, means, labels)[0].auc > 0.999
    assert attributes.find(classes("ab"), means, labels, means, shuffled)[0].auc == pytest.approx(
        0.5, abs=0.1
    )


def faces(rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Means and the labels Smiling, Male, Young: an axis each, and most of those who smile are not male."""
    generator = np.random.default_rng(0)
    male, young = generator.random((2, rows)) < 0.5
    smiling = generator.random(rows) < np.where(male, 0.1, 0.9)
    labels = np.stack([smiling, male, young], axis=1)
    return 4.0 * labels + generator.standard_normal((rows, 3)), labels


FACES = replace(classes("abc"), attributes=("Smiling", "Male", "Young"), exclusive=False)


def test_an_attribute_does_not_bring_another_one_along() -> None:
    """Smiling, taken within the strata of Male and Young, is its own axis, though the plain difference is not."""
    means, labels = faces(4000)
    found = attributes.find(FACES, means, labels, means, labels)[0]
    np.testing.assert_allclose(found.direction, [4, 0, 0], atol=0.2)
    plain = means[labels[:, 0]].mean(0) - means[~labels[:, 0]].mean(0)
    assert plain[1] < -2
    assert found.strata == ("-Male -Young", "-Male +Young", "+Male -Young", "+Male +Young")
    assert attributes.find(FACES, means, labels, means, labels)[1].strata == ("-Young", "+Young")


def test_a_stratum_of_few_is_left_out() -> None:
    """Fewer than 20 of one kind make no mean: where no stratum has as many, the plain difference is taken."""
    means, labels = faces(4000)
    labels[:, 1], labels[:, 2] = labels[:, 0], labels[:, 0]
    found = attributes.find(FACES, means, labels, means, labels)
    assert [each.strata for each in found] == [()] * 3
    np.testing.assert_allclose(found[0].direction, means[labels[:, 0]].mean(0) - means[~labels[:, 0]].mean(0))
    labels[:, 1] = False
    assert [each.name for each in attributes.find(FACES, means, labels, means, labels)] == [
        "Smiling",
        "Young",
    ]


def test_without_male_and_young_there_are_no_strata() -> None:
    """Attributes of other things get the plain difference, and no strata are named."""
    means, labels = faces(400)
    things = replace(FACES, attributes=("Hat", "Bow"))
    found = attributes.find(things, means, labels[:, :2], means, labels[:, :2])[0]
    assert found.strata == ()
    np.testing.assert_allclose(found.direction, means[labels[:, 0]].mean(0) - means[~labels[:, 0]].mean(0))


def test_the_quantiles_are_where_the_images_lie_along_a_direction() -> None:
    """Moving from the mean by a quantile's value reaches the projection that so many percent of the images have."""
    means, labels = faces(4000)
    for found in attributes.find(FACES, means, labels, means, labels):
        along = (means - means.mean(0)) @ found.direction
        for percent, value in found.quantiles.items():
            reached = value * found.norm**2
            assert (along <= reached).mean() == pytest.approx(float(percent) / 100, abs=0.001)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_log_density_is_that_of_torch_distributions(seed: int) -> None:
    """A mixture's log-density equals torch's mixture of the same multivariate normals."""
    generator = np.random.default_rng(seed)
    weights = generator.dirichlet(np.ones(4))
    choleskys = np.tril(generator.standard_normal((4, 3, 3)))
    choleskys[:, range(3), range(3)] = generator.uniform(0.2, 2, (4, 3))
    means, latents = generator.standard_normal((4, 3)), generator.standard_normal((7, 3)) * 3
    expected = distributions.MixtureSameFamily(
        distributions.Categorical(torch.from_numpy(weights)),
        distributions.MultivariateNormal(torch.from_numpy(means), scale_tril=torch.from_numpy(choleskys)),
    ).log_prob(torch.from_numpy(latents))
    np.testing.assert_allclose(
        Mixture(weights, means, choleskys).log_density(latents), expected.numpy(), rtol=1e-8
    )


def posterior_of(rows: int) -> Posterior:
    """Two used dimensions, in two clusters, and a third that has collapsed on the prior."""
    generator = torch.Generator().manual_seed(3)
    mean = torch.randn(rows, 3, generator=generator) * 0.3
    mean[: rows // 2, 0] += 2
    mean[rows // 2 :, 0] -= 2
    mean[:, 2] *= 0.001
    return Posterior(mean, torch.tensor([0.05, 0.1, 1.0]).log().expand(rows, 3))


def test_the_fitted_prior_has_the_moments_of_the_aggregate_posterior() -> None:
    """Mean and covariance of the mixture's draws are those of z ~ q(z), in the collapsed dimension too."""
    posterior = posterior_of(4000)
    drawn = mixture.fit(posterior, 4, seed=1).sample(40_000, seed=2)
    expected = np.cov(posterior.mean.numpy().T) + np.diag([0.05, 0.1, 1.0])
    np.testing.assert_allclose(drawn.mean(0), posterior.mean.mean(0).numpy(), atol=0.03)
    np.testing.assert_allclose(np.cov(drawn.T), expected, atol=0.05)


def test_the_rate_under_a_standard_normal_mixture_is_the_rate() -> None:
    """With one component N(0, I) the sampled rate comes to the closed form."""
    posterior = posterior_of(4000)
    noise = torch.randn(4000, 3, generator=torch.Generator().manual_seed(4))
    latents = loss.sample(*posterior, noise).double().numpy()
    normal = Mixture(np.ones(1), np.zeros((1, 3)), np.eye(3)[None])
    expected = float(loss.rate_per_dimension(*posterior).sum(1).mean())
    assert mixture.rate_under(normal, posterior, latents) == pytest.approx(expected, abs=0.1)
    fitted = mixture.fit(posterior, 4, seed=1)
    assert mixture.rate_under(fitted, posterior, latents) < expected - 0.5
