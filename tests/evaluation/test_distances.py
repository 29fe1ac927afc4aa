import numpy as np
import pytest

from nami_jax.evaluation import distances
from nami_jax.evaluation.distances import RealFeatures, cmmd, directions, frechet, kid, moments, sliced_wasserstein


def draw(count: int, size: int = 8, seed: int = 0, scale: float = 1.0, shift: float = 0.0) -> np.ndarray:
    return (scale * np.random.default_rng(seed).standard_normal((count, size)) + shift).astype(np.float32)


def test_kid_by_hand_of_two_pictures_of_one_feature():
    # k(a, b) = (ab + 1)^3: within {1, 0}: k = 1; within {2, -1}: (-2 + 1)^3 = -1; between: 27, 0, 1, 1.
    value = kid(np.array([[1.0], [0.0]]), RealFeatures(np.array([[2.0], [-1.0]])))
    assert value == pytest.approx(1 - 1 - 2 * (27 + 0 + 1 + 1) / 4)


def test_kid_is_zero_in_expectation_where_both_sets_are_alike_and_so_often_negative():
    values = [kid(draw(20, seed=2 * i), RealFeatures(draw(30, seed=2 * i + 1))) for i in range(300)]
    assert abs(np.mean(values)) < 4 * np.std(values) / np.sqrt(len(values))
    assert 0.3 < np.mean(np.array(values) < 0) < 0.7
    assert kid(draw(200, shift=1), RealFeatures(draw(200, seed=1))) > 10 * np.std(values)


def test_kid_does_not_depend_on_how_many_rows_are_computed_at_once(monkeypatch):
    x, y = draw(50), draw(70, seed=1)
    whole = kid(x, RealFeatures(y))
    monkeypatch.setattr(distances, "AT_ONCE", 7)
    assert kid(x, RealFeatures(y)) == pytest.approx(whole, rel=1e-9)


def with_moments(count: int, mean: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """Returns features whose mean and covariance are exactly `mean` and `spread` squared on the diagonal."""
    x = draw(count, len(mean)).astype(np.float64)
    x -= x.mean(0)
    x = x @ np.linalg.inv(np.linalg.cholesky(np.cov(x, rowvar=False))).T
    return x * spread + mean


@pytest.mark.parametrize("counts", [(40, 60), (300, 30)])
def test_frechet_of_gaussians_is_that_of_their_moments(counts):
    mean, spread, other, wide = np.arange(5.0), np.arange(1.0, 6.0), np.ones(5), np.array([2.0, 2, 0.5, 1, 3])
    value = frechet(with_moments(counts[0], mean, spread), RealFeatures(with_moments(counts[1], other, wide)))
    assert value == pytest.approx(np.square(mean - other).sum() + np.square(spread - wide).sum(), rel=1e-9)


def test_frechet_of_fewer_pictures_than_features_is_finite_and_zero_of_a_set_and_itself():
    few = draw(5, size=64)
    assert frechet(few, RealFeatures(few)) == pytest.approx(0, abs=1e-9)
    mean, factor = moments(few)
    assert factor.shape == (5, 64)
    np.testing.assert_allclose(factor.T @ factor, np.cov(few, rowvar=False), atol=1e-6)
    np.testing.assert_allclose(mean, few.mean(0), atol=1e-6)


def test_sliced_wasserstein_of_a_shift_is_three_times_its_square():
    # Along a unit vector u, W2^2 is (u . shift)^2, whose mean over directions is |shift|^2 / D.
    x, shift = draw(50, size=6), np.array([1.0, 0, 0, 2, 0, 0], np.float32)
    expected = 3 * 6 * np.square(directions(6) @ shift).mean()
    assert sliced_wasserstein(x + shift, RealFeatures(x)) == pytest.approx(expected, rel=1e-4)
    assert expected == pytest.approx(3 * np.square(shift).sum(), rel=0.1)


def test_sliced_wasserstein_compares_sets_of_different_sizes_exactly():
    x, y = draw(4, size=3), draw(6, size=3, seed=1)
    repeated = sliced_wasserstein(np.repeat(x, 3, axis=0), RealFeatures(np.repeat(y, 2, axis=0)))
    assert sliced_wasserstein(x, RealFeatures(y)) == pytest.approx(repeated, rel=1e-5)


def test_directions_are_unit_vectors_and_always_the_same():
    first = directions(5).copy()
    directions.cache_clear()
    np.testing.assert_array_equal(directions(5), first)
    np.testing.assert_allclose(np.linalg.norm(first, axis=1), 1, rtol=1e-6)


def test_cmmd_by_hand_of_two_directions():
    # At length 1 they are 2 apart, squared, whatever their lengths were: 1000 (1 + 1 - 2 exp(-2 / 200)).
    value = cmmd(np.array([[3.0, 0.0]]), RealFeatures(np.array([[0.0, 0.5]])))
    assert value == pytest.approx(2000 * (1 - np.exp(-0.01)))
    assert cmmd(draw(20), RealFeatures(draw(20))) == pytest.approx(0, abs=1e-9)
