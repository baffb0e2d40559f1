"""Priors, interpolation and attribute arithmetic, against the formulas and the exact moments."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from armoire.ops import latents
from armoire.ops.latents import Mixture

LARGEST = float(np.finfo(np.float32).max)
SEEDS = st.integers(0, 2**64 - 1)
MODERATE = st.floats(-100, 100, width=32)
ANY_FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
PAIRS = st.tuples(st.integers(1, 4), st.integers(1, 5)).flatmap(
    lambda shape: st.tuples(*(hnp.arrays(np.float32, shape, elements=MODERATE),) * 2)
)
MIXTURE = Mixture(
    weights=np.array([0.2, 0.5, 0.3]),
    means=np.array([[-4.0, 0.0], [1.0, 2.0], [3.0, -3.0]]),
    choleskys=np.array([[[1.0, 0], [0.5, 0.5]], [[0.3, 0], [-0.6, 1.0]], [[2.0, 0], [1.0, 0.2]]]),
)


@settings(max_examples=50)
@given(SEEDS, st.integers(1, 70), st.integers(1, 70), st.integers(1, 20))
def test_a_shorter_draw_of_the_normal_prior_is_the_beginning_of_a_longer(
    seed: int, few: int, more: int, size: int
) -> None:
    """The first k rows of n are the k rows, bit by bit."""
    short, long = (latents.sample_normal(count, size, seed) for count in (few, few + more))
    np.testing.assert_array_equal(long[:few], short)


@settings(max_examples=50)
@given(SEEDS, st.integers(1, 70), st.integers(1, 70))
def test_a_shorter_draw_of_a_mixture_is_the_beginning_of_a_longer(seed: int, few: int, more: int) -> None:
    """The first k rows of n are the k rows, their components included, bit by bit."""
    short, long = (MIXTURE.sample(count, seed, 0.7) for count in (few, few + more))
    np.testing.assert_array_equal(long[:few], short)


@given(SEEDS)
def test_the_rows_of_a_draw_differ(seed: int) -> None:
    """No row repeats another, nor the row of the next seed."""
    rows = np.concatenate([latents.sample_normal(4, 3, s % 2**64) for s in (seed, seed + 1)])
    assert len(np.unique(rows, axis=0)) == 8


def test_the_normal_prior_is_standard_normal() -> None:
    """Mean 0, covariance I, and the fourth moment 3 of a Gaussian, within five standard errors."""
    n = 200_000
    rows = latents.sample_normal(n, 3, 1).astype(np.float64)
    assert rows.shape == (n, 3)
    np.testing.assert_allclose(rows.mean(0), 0, atol=5 / n**0.5)
    np.testing.assert_allclose(np.cov(rows.T), np.eye(3), atol=5 * (2 / n) ** 0.5)
    np.testing.assert_allclose((rows**4).mean(0), 3, atol=5 * (96 / n) ** 0.5)


@pytest.mark.parametrize("temperature", [1.0, 0.25])
def test_a_mixture_has_its_exact_moments(temperature: float) -> None:
    """Mean and covariance are those of sum w_k N(mu_k, t^2 L_k L_k^T), within five standard errors."""
    n = 100_000
    rows = MIXTURE.sample(n, 2, temperature).astype(np.float64)
    w, mu = MIXTURE.weights, MIXTURE.means
    mean = w @ mu
    within = np.einsum("k,kij,klj->il", w, MIXTURE.choleskys, MIXTURE.choleskys) * temperature**2
    covariance = within + (mu - mean).T @ np.diag(w) @ (mu - mean)
    np.testing.assert_allclose(rows.mean(0), mean, atol=5 * np.sqrt(covariance.max() / n))
    error = np.std([np.outer(row - mean, row - mean) for row in rows[:5000]], axis=0).max() / n**0.5
    np.testing.assert_allclose(np.cov(rows.T), covariance, atol=5 * error)


def test_a_mixture_without_temperature_is_its_means_by_weight() -> None:
    """At temperature 0 only the means come, each as often as its weight says, within five standard errors."""
    n = 20_000
    rows = MIXTURE.sample(n, 3, 0.0)
    for weight, mean in zip(MIXTURE.weights, MIXTURE.means, strict=True):
        share = (rows == mean.astype(np.float32)).all(axis=1).mean()
        assert abs(share - weight) < 5 * (weight * (1 - weight) / n) ** 0.5


def test_noise_and_components_come_from_two_streams() -> None:
    """A mixture of one component draws the noise of the normal prior: the choice takes nothing from it."""
    single = Mixture(np.ones(1), np.zeros((1, 4)), np.eye(4)[None])
    np.testing.assert_array_equal(single.sample(9, 5), latents.sample_normal(9, 4, 5))


def test_a_seed_means_two_spawned_streams_of_numpy() -> None:
    """Noise comes from the first stream that numpy spawns from the seed, choices from the second: for good."""
    noise, choice = (np.random.default_rng(part) for part in np.random.SeedSequence(11).spawn(2))
    np.testing.assert_array_equal(latents.sample_normal(3, 2, 11), noise.standard_normal((3, 2), np.float32))
    wanted = np.digitize(choice.random(50), [0.2, 0.7])
    np.testing.assert_array_equal(MIXTURE.sample(50, 11, 0.0), MIXTURE.means[wanted])


def test_weights_that_sum_to_less_than_one_choose_a_component() -> None:
    """A sum of weights below 1 never leads past the last component."""
    mixture = Mixture(np.full(10, 0.09), np.zeros((10, 1)), np.zeros((10, 1, 1)))
    assert mixture.sample(500, 0).shape == (500, 1)


@given(SEEDS, st.floats(0, 8, width=32))
def test_temperature_scales_the_normal_prior(seed: int, temperature: float) -> None:
    """Temperature t gives t times the rows of temperature 1."""
    np.testing.assert_array_equal(
        latents.sample_normal(3, 4, seed, temperature),
        latents.sample_normal(3, 4, seed) * np.float32(temperature),
    )


@pytest.mark.parametrize(
    "draw", [lambda t: latents.sample_normal(64, 8, 0, t), lambda t: MIXTURE.sample(64, 0, t)]
)
def test_a_temperature_out_of_range_gives_infinities_and_no_warning(draw: object) -> None:
    """What float32 cannot hold becomes infinite, for the caller to refuse."""
    assert np.isinf(draw(LARGEST)).any()


@given(PAIRS, st.integers(2, 9), st.sampled_from([latents.interpolate_linear, latents.interpolate_spherical]))
def test_a_walk_begins_and_ends_at_the_points_given(
    pair: tuple[np.ndarray, np.ndarray], steps: int, interpolate: object
) -> None:
    """Both ends of either walk are the caller's points exactly."""
    start, end = pair
    walk = interpolate(start, end, steps)
    assert walk.shape == (len(start), steps, start.shape[1])
    assert walk.dtype == np.float32
    np.testing.assert_array_equal(walk[:, 0], start)
    np.testing.assert_array_equal(walk[:, -1], end)


@given(PAIRS, st.integers(2, 9))
def test_a_linear_walk_is_the_formula(pair: tuple[np.ndarray, np.ndarray], steps: int) -> None:
    """Step i is z_a (1 - i / (steps - 1)) + z_b i / (steps - 1)."""
    start, end = pair
    walk = latents.interpolate_linear(start, end, steps)
    for i in range(steps):
        alpha = i / (steps - 1)
        wanted = start.astype(np.float64) * (1 - alpha) + end.astype(np.float64) * alpha
        np.testing.assert_allclose(walk[:, i], wanted, rtol=1e-5, atol=1e-4)


@given(
    hnp.arrays(np.float32, (3, 4), elements=MODERATE),
    hnp.arrays(np.float32, (3, 4), elements=MODERATE),
    st.integers(2, 9),
)
def test_the_length_on_a_spherical_walk_goes_linearly(start: np.ndarray, end: np.ndarray, steps: int) -> None:
    """Where the great circle is defined, the length of step i lies on the line between those of the ends."""
    a, b = start.astype(np.float64), end.astype(np.float64)
    lengths = [np.linalg.norm(x, axis=1) for x in (a, b)]
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine = (a * b).sum(1) / lengths[0] / lengths[1]
    defined = (lengths[0] > 0) & (lengths[1] > 0) & (np.abs(cosine) < 0.999)
    walk = latents.interpolate_spherical(start, end, steps)
    for row in np.flatnonzero(defined):
        wanted = np.linspace(lengths[0][row], lengths[1][row], steps)
        np.testing.assert_allclose(np.linalg.norm(walk[row].astype(np.float64), axis=1), wanted, rtol=1e-4)


def test_a_spherical_walk_turns_by_equal_angles_in_the_plane_of_its_ends() -> None:
    """A quarter turn in three steps has the point at 45 degrees in its middle."""
    start, end = np.array([[2.0, 0, 0]], np.float32), np.array([[0, 4.0, 0]], np.float32)
    middle = latents.interpolate_spherical(start, end, 3)[0, 1]
    np.testing.assert_allclose(middle, [3 * 0.5**0.5, 3 * 0.5**0.5, 0], rtol=1e-6)


@pytest.mark.parametrize(
    ("start", "end"),
    [
        pytest.param([[0.0, 0.0]], [[1.0, 2.0]], id="from the origin"),
        pytest.param([[1.0, 2.0]], [[0.0, 0.0]], id="to the origin"),
        pytest.param([[1.0, 2.0]], [[-2.0, -4.0]], id="opposite points"),
        pytest.param([[1.0, 2.0]], [[3.0, 6.0]], id="one direction"),
        pytest.param([[1.0, 2.0]], [[1.0, 2.0]], id="one point"),
    ],
)
def test_a_spherical_walk_without_a_great_circle_is_linear(start: list, end: list) -> None:
    """Where no great circle is defined the walk is the linear one, and finite."""
    a, b = np.array(start, np.float32), np.array(end, np.float32)
    walk = latents.interpolate_spherical(a, b, 5)
    np.testing.assert_allclose(walk, latents.interpolate_linear(a, b, 5), rtol=1e-6)


@given(
    hnp.arrays(np.float32, (2, 3), elements=ANY_FINITE),
    hnp.arrays(np.float32, (2, 3), elements=ANY_FINITE),
    st.sampled_from([latents.interpolate_linear, latents.interpolate_spherical]),
)
def test_no_finite_points_make_a_walk_of_nan_or_a_warning(
    start: np.ndarray, end: np.ndarray, interpolate: object
) -> None:
    """At the edge of float32's range a walk may overflow to infinity; it is never NaN."""
    assert not np.isnan(interpolate(start, end, 4)).any()


def test_the_difference_of_means_points_from_negatives_to_positives() -> None:
    """The direction is mean(positives) - mean(negatives), whatever the sizes of the groups."""
    positives = np.array([[1, 2], [3, 4]], np.float32)
    negatives = np.array([[0, 1], [0, 1], [3, -8]], np.float32)
    direction = latents.difference_of_means(positives, negatives)
    assert direction.dtype == np.float32
    np.testing.assert_array_equal(direction, [1, 5])


def test_the_difference_of_far_means_is_infinite_without_a_warning() -> None:
    """A difference that float32 cannot hold becomes infinite, for the caller to refuse."""
    far = np.full((2, 2), LARGEST, np.float32)
    assert np.isinf(latents.difference_of_means(far, -far)).all()
    assert np.isnan(latents.unit(np.array([np.inf, 1], np.float32))).any()


@given(hnp.arrays(np.float32, 5, elements=ANY_FINITE).filter(np.any))
def test_a_unit_direction_has_length_one_and_the_same_sense(direction: np.ndarray) -> None:
    """The smallest and the largest directions of float32 alike come to length 1 without turning."""
    unit = latents.unit(direction).astype(np.float64)
    np.testing.assert_allclose(np.linalg.norm(unit), 1, rtol=1e-6)
    wide = direction.astype(np.float64)
    np.testing.assert_allclose(unit @ wide, np.linalg.norm(wide), rtol=1e-6)


@given(
    hnp.arrays(np.float32, 6, elements=MODERATE).filter(np.any),
    hnp.arrays(np.float32, st.tuples(st.integers(1, 5), st.just(6)), elements=MODERATE),
)
def test_what_is_left_of_a_direction_is_orthogonal_to_the_others(
    direction: np.ndarray, others: np.ndarray
) -> None:
    """It is as near to the direction as anything orthogonal to all of the others, whatever their number and lengths."""
    left = latents.orthogonal(direction, others).astype(np.float64)
    wide, lengths = direction.astype(np.float64), np.linalg.norm(others.astype(np.float64), axis=1)
    scale = np.linalg.norm(wide)
    cosines = (others[lengths > 0].astype(np.float64) @ left) / lengths[lengths > 0]
    assert np.abs(cosines).max(initial=0) <= 1e-5 * scale
    # The way from what is left to the direction lies within the others: it is orthogonal to what is left.
    assert abs((wide - left) @ left) <= 1e-5 * scale**2


def test_nothing_is_left_of_a_direction_within_the_others() -> None:
    """A sum of the others leaves zeros, and not the rounding of zeros."""
    others = np.random.default_rng(0).standard_normal((3, 7)).astype(np.float32)
    assert not latents.orthogonal(others.sum(0), others).any()
    assert np.isinf(latents.orthogonal(np.full(7, np.inf, np.float32), others)).all()


def test_what_is_left_of_a_direction_may_be_infinite_but_warns_nobody() -> None:
    """One entry can be larger than any of the direction's, and then larger than float32 can tell."""
    most = np.finfo(np.float32).max
    left = latents.orthogonal(np.array([most, most], np.float32), np.array([[1.0, -0.5]], np.float32))
    assert np.isinf(left[1])


def test_a_direction_of_length_zero_has_no_unit_vector() -> None:
    """There is nothing to bring to length 1."""
    with pytest.raises(ValueError, match="length 0"):
        latents.unit(np.zeros(3, np.float32))


@given(
    hnp.arrays(np.float32, (3, 4), elements=MODERATE),
    st.lists(
        st.tuples(st.floats(-4, 4, width=32), hnp.arrays(np.float32, 4, elements=MODERATE)),
        min_size=1,
        max_size=4,
    ),
)
def test_a_shift_is_linear(points: np.ndarray, moves: list[tuple[float, np.ndarray]]) -> None:
    """Every point moves by the sum of strength x direction."""
    strengths, directions = [s for s, _ in moves], [d for _, d in moves]
    moved = latents.shift(points, strengths, directions)
    assert moved.dtype == np.float32
    wanted = points.astype(np.float64) + np.array(strengths) @ np.array(directions, np.float64)
    np.testing.assert_allclose(moved, np.broadcast_to(wanted, points.shape), rtol=1e-5, atol=2e-4)


def test_a_shift_leaves_the_callers_points_alone() -> None:
    """The given points are not written to."""
    points = np.ones((2, 2), np.float32)
    points.flags.writeable = False
    latents.shift(points, [1.0, 2.0], [np.ones(2, np.float32)] * 2)
    np.testing.assert_array_equal(points, 1)


def test_a_shift_out_of_range_gives_infinities_and_no_warning() -> None:
    """What float32 cannot hold becomes infinite or NaN, for the caller to refuse."""
    huge = np.full(2, LARGEST, np.float32)
    assert np.isinf(latents.shift(huge[None], [2.0], [huge])).all()
    assert np.isnan(latents.shift(huge[None], [2.0, -2.0], [huge, huge])).all()
