"""Compares the distances between sets of features with torchmetrics' and POT's."""

import importlib.util
import sys
from typing import Any

import numpy as np
import pytest

from nami_jax.evaluation.distances import RealFeatures, directions, frechet, kid, sliced_wasserstein

torch: Any = pytest.importorskip("torch")
ot: Any = pytest.importorskip("ot")

spec = importlib.util.find_spec("torch_fidelity")
if spec is not None and "torch_fidelity" not in sys.modules:
    # torchmetrics imports a module of it; the package itself wants torchvision, for other networks.
    sys.modules["torch_fidelity"] = importlib.util.module_from_spec(spec)
pytest.importorskip("torchmetrics")

SIZE = 48


def draw(count: int, seed: int, shift: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((count, SIZE)) * rng.uniform(0.5, 2, SIZE) + shift).astype(np.float32)


def test_kid_is_torchmetrics_of_one_block():
    kid_of: Any = pytest.importorskip("torchmetrics.image.kid")
    x, y = draw(80, 0), draw(80, 1, 0.3)  # torchmetrics takes blocks of one size from both
    theirs = float(kid_of.poly_mmd(*(torch.from_numpy(of).double() for of in (y, x)), degree=3, gamma=None, coef=1.0))
    assert kid(x, RealFeatures(y)) == pytest.approx(theirs, rel=1e-9)


@pytest.mark.parametrize("counts", [(90, 200), (30, 40)])
def test_frechet_is_torchmetrics(counts):
    fid_of: Any = pytest.importorskip("torchmetrics.image.fid")
    sets = [draw(count, seed, 0.2 * seed).astype(np.float64) for seed, count in enumerate(counts)]
    moments = [(torch.from_numpy(x.mean(0)), torch.from_numpy(np.cov(x, rowvar=False))) for x in sets]
    theirs = float(fid_of._compute_fid(*moments[0], *moments[1]))
    # Of fewer pictures than features theirs takes roots of eigenvalues that are 0 but for rounding.
    assert frechet(sets[0], RealFeatures(sets[1])) == pytest.approx(theirs, rel=1e-4)


@pytest.mark.parametrize("counts", [(50, 50), (50, 130)])
def test_sliced_wasserstein_is_pots_times_its_factor(counts):
    x, y = draw(counts[0], 0), draw(counts[1], 1, 0.2)
    projections = directions(SIZE).T.astype(np.float64)
    theirs = ot.sliced_wasserstein_distance(x.astype(np.float64), y.astype(np.float64), projections=projections)
    assert sliced_wasserstein(x, RealFeatures(y)) == pytest.approx(3 * SIZE * theirs**2, rel=1e-4)
