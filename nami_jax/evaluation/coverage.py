"""How many samples are good, and how much of the real pictures they cover: clipped density and clipped coverage."""

import numpy as np
from scipy.stats import betabinom

from nami_jax.evaluation.distances import NEIGHBOURS, RealFeatures, distances_by_part


def clipped_density(samples: np.ndarray, real: RealFeatures) -> float:
    """Returns which share of samples is good, 0 to 1: how near they lie to real pictures.

    Every real picture has a ball around it as far as its K-th neighbour among the real, but no further than the median
    of all these radii, so that outliers have no large ones. A sample counts for the number of balls that it lies in,
    over K, at most 1; the mean is divided by that of the real pictures themselves, each without its own ball.

    Args:
        samples: (N, D) features.
        real: (M, D), M above K.

    Source: Salvy et al., "Clipped Density and Coverage", arXiv 2507.01761, sec. 4.
    """
    radii, inside = real.clipped_radii, np.zeros(len(samples), int)
    for rows, distances in distances_by_part(real.features, samples):
        inside += (distances <= radii[rows, None]).sum(0)
    return min(float(np.minimum(inside / NEIGHBOURS, 1).mean()) / real.density, 1.0)


def clipped_coverage(samples: np.ndarray, real: RealFeatures) -> float:
    """Returns how much of the real pictures is covered, 0 to 1: 0.6 is what 60 % of as many good samples would cover.

    A real picture is covered by the samples nearer to it than its K-th neighbour among the real, up to K of them. What
    share of K that is on average is compared with what m good samples give, for each m up to N: then the number in a
    ball is beta-binomial.

    Args:
        samples: (N, D) features.
        real: (M, D), M above K.

    Source: Salvy et al., "Clipped Density and Coverage", arXiv 2507.01761, sec. 5. They take the first m whose
        expectation is as large; here it is interpolated, and the expectation for m < K is not set to 0.
    """
    parts = distances_by_part(real.features, samples)
    inside = np.concatenate([(distances < real.radii[rows, None]).sum(1) for rows, distances in parts])
    covered = float(np.minimum(inside / NEIGHBOURS, 1).mean())
    return float(np.interp(covered, expected_coverage(len(samples), len(real)), np.linspace(0, 1, len(samples) + 1)))


def expected_coverage(samples: int, real: int) -> np.ndarray:
    """Returns the expected share of K samples in the ball of a real picture, given m = 0..samples good ones."""
    m = np.arange(samples + 1)[:, None]  # (N + 1, 1)
    few = np.arange(NEIGHBOURS)  # E min(J, K) = K − Σ_{j < K} (K − j) P(J = j)
    lacking = (NEIGHBOURS - few) * betabinom.pmf(few, m, NEIGHBOURS, real - NEIGHBOURS)
    return 1 - lacking.sum(1) / NEIGHBOURS
