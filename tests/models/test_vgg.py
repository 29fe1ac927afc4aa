import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nami_jax.models.vgg import MEAN_BGR
from nami_jax.weights.vgg_keys import load_vgg


@pytest.fixture(scope="module")
def tensors() -> dict[str, np.ndarray]:
    """Random weights of the first two blocks, in the order (O, I, H, W)."""
    rng, tensors, inputs = np.random.default_rng(0), {}, 3
    for name, width in (("block1_conv1", 64), ("block1_conv2", 64), ("block2_conv1", 128), ("block2_conv2", 128)):
        scale = (2 / (9 * inputs)) ** 0.5
        tensors[f"{name}.weight"] = rng.normal(scale=scale, size=(width, inputs, 3, 3)).astype(np.float32)
        tensors[f"{name}.bias"] = rng.normal(size=width).astype(np.float32)
        inputs = width
    return tensors


def convolve(x: np.ndarray, tensors: dict[str, np.ndarray], name: str) -> np.ndarray:
    """Convolves (B, H, W, I) position by position, zeros around, then ReLU."""
    padded = np.pad(x.astype(np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
    out = np.zeros((*x.shape[:3], len(tensors[f"{name}.bias"]))) + tensors[f"{name}.bias"]
    for row in range(3):
        for column in range(3):
            window = padded[:, row : row + x.shape[1], column : column + x.shape[2]]
            out += window @ tensors[f"{name}.weight"][:, :, row, column].T.astype(np.float64)
    return np.maximum(out, 0)


def test_features_are_those_of_a_plain_computation(tensors):
    images = np.random.default_rng(1).uniform(-1, 1, (2, 6, 4, 3)).astype(np.float32)
    found = load_vgg(2, tensors)(jnp.asarray(images))
    levels = (images.astype(np.float64) + 1) * 127.5
    state = np.stack([levels[..., 2], levels[..., 1], levels[..., 0]], -1) - MEAN_BGR
    first = convolve(convolve(state, tensors, "block1_conv1"), tensors, "block1_conv2")
    pooled = first.reshape(2, 3, 2, 2, 2, 64).max((2, 4))
    second = convolve(convolve(pooled, tensors, "block2_conv1"), tensors, "block2_conv2")
    for ours, expected in zip(found, (first, second), strict=True):
        # Sums of a few hundred products in float32, against float64.
        assert np.abs(ours - expected).max() <= 1e-5 * np.abs(expected).max()


def test_each_block_halves_the_sides(tensors):
    vgg = load_vgg(2, tensors)
    shapes = [x.shape for x in jax.eval_shape(vgg, jax.ShapeDtypeStruct((1, 7, 8, 3), jnp.float32))]
    assert shapes == [(1, 7, 8, 64), (1, 4, 4, 128)]
