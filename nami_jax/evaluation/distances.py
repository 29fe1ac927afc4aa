"""How far generated pictures are from real ones, as two sets of features: KID, Fréchet, sliced Wasserstein."""

import dataclasses
import functools
from collections.abc import Iterator

import numpy as np

PROJECTIONS = 1000  # of the sliced Wasserstein distance
PROJECTION_SEED = 0
SIGMA = 10  # of CMMD's kernel
NEIGHBOURS = 5  # K of clipped density and coverage: a real picture's ball reaches to its K-th nearest other one
AT_ONCE = 2048  # rows of a matrix of kernels or distances that are computed at once, at most


@dataclasses.dataclass(frozen=True, eq=False)
class RealFeatures:
    """Features of real pictures, with what the distances from them need computed once.

    Attributes:
        features: (M, D) float32, M at least 2.
    """

    features: np.ndarray

    def __len__(self) -> int:
        return len(self.features)

    @functools.cached_property
    def within(self) -> float:
        """The mean of KID's kernel over pairs of two different pictures."""
        return mean_kernel_within(self.features)

    @functools.cached_property
    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean (D,) and factor (min(M, D), D) of the covariance: see `moments`."""
        return moments(self.features)

    @functools.cached_property
    def projected(self) -> np.ndarray:
        """The features along each of `directions`, sorted: (PROJECTIONS, M)."""
        return np.sort(directions(self.features.shape[1]) @ self.features.T, axis=1)

    @functools.cached_property
    def radii(self) -> np.ndarray:
        """The squared distance (M,) of each picture to its NEIGHBOURS-th nearest other one."""
        found = np.zeros(len(self))
        for rows, among in self._among():
            found[rows] = np.partition(among, NEIGHBOURS - 1, axis=1)[:, NEIGHBOURS - 1]
        return found

    @property
    def clipped_radii(self) -> np.ndarray:
        """`radii` (M,), but none above their median."""
        return np.minimum(self.radii, np.median(self.radii))

    @functools.cached_property
    def density(self) -> float:
        """The clipped density of the pictures themselves, each without its own ball, before it is divided by this."""
        inside = np.zeros(len(self))
        for rows, among in self._among():
            inside += (among <= self.clipped_radii[rows, None]).sum(0)
        return float(np.minimum(inside / NEIGHBOURS, 1).mean())

    def _among(self) -> Iterator[tuple[slice, np.ndarray]]:
        """Yields some rows, and their squared distances (n, M) to all, infinite to themselves."""
        for rows, among in distances_by_part(self.features, self.features):
            among[np.arange(len(among)), np.arange(rows.start, rows.stop)] = np.inf
            yield rows, among


def kid(samples: np.ndarray, real: RealFeatures) -> float:
    """Returns the kernel distance of two sets of features ("KID", of Inception's features alone).

    It is the unbiased estimator of the squared maximum mean discrepancy for the kernel k(a, b) = (a·b / D + 1)³ over
    all pictures at once: no blocks are drawn, and the pairs of a picture with itself are left out. Its expectation is 0
    where both sets are of one distribution, so that it is as often below 0.

    Args:
        samples: (N, D), N at least 2.
        real: (M, D).

    Source: Bińkowski et al., arXiv 1801.01401, sec. 4; Gretton et al., JMLR 13 (2012), lemma 6.
    """
    return (
        mean_kernel_within(samples) + real.within - 2 * _kernel_sum(samples, real.features) / (len(samples) * len(real))
    )


def mean_kernel_within(x: np.ndarray) -> float:
    """Returns the mean of KID's kernel over pairs of two different rows of x (N, D)."""
    count = len(x)
    own = ((np.square(x, dtype=np.float64).sum(1) / x.shape[1] + 1) ** 3).sum()
    return (_kernel_sum(x, x) - float(own)) / (count * (count - 1))


def _kernel_sum(x: np.ndarray, y: np.ndarray) -> float:
    """Returns the sum of KID's kernel over all pairs of rows of x (N, D) and y (M, D)."""
    y = y.astype(np.float64)
    starts = range(0, len(x), AT_ONCE)
    return sum(float(((x[i : i + AT_ONCE].astype(np.float64) @ y.T / y.shape[1] + 1) ** 3).sum()) for i in starts)


def frechet(samples: np.ndarray, real: RealFeatures) -> float:
    """Returns the Fréchet distance of two sets of features, as if both were Gaussian ("FID", of Inception's alone).

    It is |μ₁ − μ₂|² + tr Σ₁ + tr Σ₂ − 2 tr (Σ₁Σ₂)^½, and grows as pictures get fewer. With factors Σ = FᵀF the last
    trace is the sum of the singular values of F₁F₂ᵀ: no root of a matrix is taken, and fewer pictures than features
    serve as well.

    Args:
        samples: (N, D), N at least 2.
        real: (M, D).

    Source: Heusel et al., arXiv 1706.08500, eq. 6.
    """
    (mean, factor), (real_mean, real_factor) = moments(samples), real.moments
    root = np.linalg.svd(factor @ real_factor.T, compute_uv=False).sum()
    return float(np.square(mean - real_mean).sum() + np.square(factor).sum() + np.square(real_factor).sum() - 2 * root)


def moments(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mean (D,) of x (N, D), and F (min(N, D), D) so that FᵀF is its covariance (divided by N − 1)."""
    x = x.astype(np.float64)
    mean = x.mean(0)
    factor = (x - mean) / np.sqrt(len(x) - 1)
    return mean, np.asarray(np.linalg.qr(factor, mode="r")) if len(x) > x.shape[1] else factor


def cmmd(samples: np.ndarray, real: RealFeatures) -> float:
    """Returns CMMD, for CLIP's features: 1000 times the squared maximum mean discrepancy of a Gaussian kernel, σ = 10.

    Features are scaled to length 1 first. As published, pairs of a picture with itself count, so it is never below 0.

    Args:
        samples: (N, D).
        real: (M, D).

    Source: Jayasumana et al., arXiv 2401.09603, sec. 4, and the constants of its release.
    """
    x, y = (of / np.maximum(np.linalg.norm(of, axis=1, keepdims=True), 1e-12) for of in (samples, real.features))

    def mean_kernel(a: np.ndarray, b: np.ndarray) -> float:
        parts = (np.exp(-distances / (2 * SIGMA**2)).sum() for _, distances in distances_by_part(a, b))
        return float(sum(parts)) / (len(a) * len(b))

    return 1000 * (mean_kernel(x, x) + mean_kernel(y, y) - 2 * mean_kernel(x, y))


def sliced_wasserstein(samples: np.ndarray, real: RealFeatures) -> float:
    """Returns the sliced Wasserstein distance of two sets of features ("MIND", of Inception's alone).

    It is 3 D times the mean, over 1000 random directions that are always the same, of the squared Wasserstein-2
    distance of what both sets are along that direction. Sets of different sizes are compared exactly, where the paper
    draws as many of each.

    Args:
        samples: (N, D).
        real: (M, D).

    Source: Berthet et al., "MIND: Monge Inception Distance", arXiv 2605.06797; the factor and the number of directions
        as in public implementations of it.
    """
    along = np.sort(directions(samples.shape[1]) @ samples.T, axis=1)
    return float(3 * samples.shape[1] * _squared_wasserstein(along, real.projected).mean())


@functools.cache
def directions(size: int) -> np.ndarray:
    """Returns the unit vectors (PROJECTIONS, size) float32 along which features are compared, always the same."""
    drawn = np.random.default_rng(PROJECTION_SEED).standard_normal((PROJECTIONS, size), np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def _squared_wasserstein(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Returns the squared Wasserstein-2 distances (P,) of sets of numbers x (P, N) and y (P, M), sorted.

    Both quantile functions are constant between the levels i / N and j / M, which are counted in units of 1 / NM.
    """
    n, m = x.shape[1], y.shape[1]
    ends = np.union1d(np.arange(1, n + 1) * m, np.arange(1, m + 1) * n)
    widths = np.diff(ends, prepend=0) / (n * m)
    return np.square(x[:, (ends - 1) // m] - y[:, (ends - 1) // n]) @ widths


def distances_by_part(x: np.ndarray, y: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Yields rows of x (N, D), at most `AT_ONCE`, and their squared distances (n, M) to those of y (M, D)."""
    for start in range(0, len(x), AT_ONCE):
        rows = slice(start, min(start + AT_ONCE, len(x)))
        yield rows, squared_distances(x[rows], y)


def squared_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Returns the squared distances (N, M) of the rows of x (N, D) and y (M, D)."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    return np.maximum(np.square(x).sum(1)[:, None] + np.square(y).sum(1) - 2 * x @ y.T, 0)
