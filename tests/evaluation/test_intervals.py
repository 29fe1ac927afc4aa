import numpy as np
import pytest

from nami_jax.evaluation.intervals import mean_score, score


def test_with_two_seeds_the_interval_is_students():
    found = mean_score(np.array([[1.0, 3.0], [2.0, 4.0]]))
    assert (found.value, found.by_seed, found.over) == (2.5, (2.0, 3.0), "seeds")
    assert found.high is not None
    assert found.high - found.value == pytest.approx(12.7062 * np.std([2, 3], ddof=1) / np.sqrt(2), rel=1e-4)


def test_with_one_seed_the_interval_over_pictures_is_the_standard_errors():
    values = np.random.default_rng(0).standard_normal((1, 400))
    found = mean_score(values)
    assert found.over == "pictures"
    assert found.high is not None
    assert (found.high - found.value) / 1.966 == pytest.approx(values.std(ddof=1) / 20, rel=0.35)  # of 40 halves


def test_intervals_hold_the_truth_nineteen_times_in_twenty():
    rng, held = np.random.default_rng(0), 0
    for _ in range(300):
        found = mean_score(rng.standard_normal((1, 60)))
        assert found.low is not None
        assert found.high is not None
        held += found.low <= 0 <= found.high
    assert 0.9 < held / 300 < 0.985


@pytest.mark.parametrize("shape", [(1, 3), (3, 3)])
def test_there_is_no_interval_of_too_few_or_of_all_alike(shape):
    found = mean_score(np.ones(shape))
    assert (found.value, found.low, found.high) == (1, None, None)


def test_a_number_of_a_set_is_measured_on_each_seed_whole_and_on_halves_without_repetition():
    asked = []

    def of(seed: int, some: np.ndarray) -> float:
        asked.append((seed, some))
        return float(some.sum())

    assert score(of, 1, 6).value == 15
    assert asked[0][1].tolist() == list(range(6))
    assert all(len(set(some.tolist())) == 3 for _, some in asked[1:])
