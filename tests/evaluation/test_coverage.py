import tracemalloc

import numpy as np
import pytest

from nami_jax.evaluation import coverage, distances
from nami_jax.evaluation.coverage import expected_coverage
from nami_jax.evaluation.distances import NEIGHBOURS, RealFeatures


def draw(count: int, seed: int = 0, shift: float = 0.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal((count, 6)) + shift).astype(np.float32)


def clipped_density(samples: np.ndarray, real: np.ndarray) -> float:
    return coverage.clipped_density(samples, RealFeatures(real))


def clipped_coverage(samples: np.ndarray, real: np.ndarray) -> float:
    return coverage.clipped_coverage(samples, RealFeatures(real))


def test_perfect_samples_score_about_one_and_far_ones_zero():
    real, good, far = draw(600), draw(600, seed=1), draw(600, seed=2, shift=20)
    assert clipped_density(good, real) > 0.9
    assert clipped_coverage(good, real) > 0.9
    assert clipped_density(far, real) == clipped_coverage(far, real) == 0


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_both_fall_linearly_with_the_share_of_bad_samples(share):
    real, bad = draw(600), draw(600, seed=2, shift=20)
    mixed = np.concatenate([draw(600, seed=1)[: int(600 * share)], bad[: int(600 * (1 - share))]])
    assert clipped_density(mixed, real) == pytest.approx(share * clipped_density(draw(600, seed=1), real), abs=0.05)
    assert clipped_coverage(mixed, real) == pytest.approx(share, abs=0.1)


def test_samples_in_one_place_are_dense_and_cover_little():
    real = draw(600)
    near_one = real[np.square(real).sum(1).argmin()] + 0.01 * draw(600, seed=3)
    assert clipped_density(near_one, real) > 0.9
    assert clipped_coverage(near_one, real) < 0.2


def test_an_outlier_with_its_large_ball_makes_no_sample_good():
    real = np.concatenate([draw(100), np.full((1, 6), 50, np.float32)])
    assert clipped_density(np.full((30, 6), 30, np.float32), real) == 0


@pytest.mark.parametrize("at_once", [7, 2048])
def test_both_agree_with_their_definitions_picture_by_picture(at_once, monkeypatch):
    monkeypatch.setattr(distances, "AT_ONCE", at_once)
    real, samples = draw(40), draw(25, seed=1, shift=0.9)

    def distance(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.linalg.norm(a.astype(np.float64) - b))

    radii = [sorted(distance(a, b) for j, b in enumerate(real) if j != i)[NEIGHBOURS - 1] for i, a in enumerate(real)]
    clipped = np.minimum(radii, np.median(radii))

    def share(point: np.ndarray, balls: list[int]) -> float:
        return min(sum(distance(point, real[i]) <= clipped[i] for i in balls) / NEIGHBOURS, 1)

    everywhere = list(range(len(real)))
    density = np.mean([share(x, everywhere) for x in samples])
    own = np.mean([share(x, [i for i in everywhere if i != j]) for j, x in enumerate(real)])
    assert 0.1 < density / own < 1
    assert clipped_density(samples, real) == pytest.approx(density / own)

    inside = [
        min(sum(distance(x, y) < radius for x in samples), NEIGHBOURS) for y, radius in zip(real, radii, strict=True)
    ]
    raw, expected = np.mean(inside) / NEIGHBOURS, expected_coverage(len(samples), len(real))
    (below,) = np.nonzero(expected <= raw)
    assert below.max() <= 25 * clipped_coverage(samples, real) < below.max() + 1


@pytest.mark.parametrize("measure", [coverage.clipped_density, coverage.clipped_coverage])
def test_distances_are_never_all_in_memory_at_once(measure, monkeypatch):
    monkeypatch.setattr(distances, "AT_ONCE", 50)
    real, samples = RealFeatures(draw(1000)), draw(1000, seed=1)
    tracemalloc.start()
    measure(samples, real)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 1000 * 1000 * 8 / 4  # all of them are 8 MB in float64, a part 0.4 MB


def test_expected_coverage_is_what_good_samples_reach():
    rng, reached = np.random.default_rng(0), []
    for _ in range(300):
        real, samples = rng.random((60, 1)), rng.random((30, 1))
        among = np.abs(real - real.T) + np.diag(np.full(60, np.inf))
        radii = np.sort(among, axis=1)[:, NEIGHBOURS - 1]
        inside = (np.abs(real - samples.T) < radii[:, None]).sum(1)
        reached.append(np.minimum(inside / NEIGHBOURS, 1).mean())
    assert expected_coverage(30, 60)[-1] == pytest.approx(np.mean(reached), abs=4 * np.std(reached) / np.sqrt(300))
    assert expected_coverage(30, 60)[0] == pytest.approx(0)
