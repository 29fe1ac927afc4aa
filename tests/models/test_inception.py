from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from nami_jax.models.inception import (
    BLOCKS,
    FEATURES,
    Conv,
    ConvNorm,
    Inception,
    Mix,
    MixedBlock,
    halve,
    resize_as_tensorflow1,
)


def passing(inputs: int, mix: Mix) -> MixedBlock:
    """Returns a block whose convolutions of 1x1 sum their inputs, divided by the root of the variance and epsilon."""
    block = MixedBlock(inputs, mix, rngs=nnx.Rngs(0))
    for name in mix.convs:
        kernel = getattr(block, name).conv.kernel
        kernel[...] = jnp.ones_like(kernel[...])
    return block


def test_means_leave_out_the_zeros_around_an_image():
    block = passing(1, Mix({"branch_pool": Conv(1, (1, 1))}, "mean"))
    states = jnp.arange(9.0).reshape(1, 3, 3, 1)
    # In the corner the mean of 0, 1, 3 and 4, which padding with zeros would make 8 / 9.
    np.testing.assert_allclose(block(states)[0, :, :, 0] * np.sqrt(1.001), [[2, 2.5, 3], [3.5, 4, 4.5], [5, 5.5, 6]])


def test_last_block_takes_the_maximum_and_the_one_before_the_mean():
    assert (BLOCKS["mixed_7b"].pool, BLOCKS["mixed_7c"].pool) == ("mean", "max")
    block = passing(1, Mix({"branch_pool": Conv(1, (1, 1))}, "max"))
    states = jnp.arange(9.0).reshape(1, 3, 3, 1)
    np.testing.assert_allclose(block(states)[0, :, :, 0] * np.sqrt(1.001), [[4, 5, 5], [7, 8, 8], [7, 8, 8]])


def test_branches_stand_one_after_another_and_a_fork_takes_one_input():
    mix = Mix(
        {
            "branch1x1": Conv(1, (1, 1)),
            "branch3x3_1": Conv(2, (1, 1)),
            "branch3x3_2a": Conv(1, (1, 1)),
            "branch3x3_2b": Conv(2, (1, 1)),
            "branch_pool": Conv(1, (1, 1)),
        },
        "max",
    )
    block = passing(1, mix)
    assert block.channels == 5
    norm = np.sqrt(1.001)
    # Each convolution sums its inputs: one of width two doubles what comes after it.
    expected = np.array([1 / norm, 2 / norm**2, 2 / norm**2, 2 / norm**2, 1 / norm])
    np.testing.assert_allclose(block(jnp.ones((1, 2, 2, 1)))[0, 1, 1], expected, rtol=1e-6)


def test_halving_blocks_pass_the_maxima_of_their_input_on():
    block = passing(2, Mix({"branch3x3": Conv(3, (3, 3), 2)}, "halve"))
    states = jnp.arange(50.0).reshape(1, 5, 5, 2)
    out = block(states)
    assert out.shape == (1, 2, 2, block.channels) == (1, 2, 2, 5)
    np.testing.assert_array_equal(out[..., 3:], halve(states))
    np.testing.assert_array_equal(halve(states)[0, :, :, 1], [[25, 29], [45, 49]])


def test_batch_norm_goes_by_the_statistics_of_training():
    conv: Any = ConvNorm(1, Conv(1, (1, 1)), rngs=nnx.Rngs(0))
    conv.conv.kernel[...], conv.bn.mean[...], conv.bn.var[...] = jnp.ones((1, 1, 1, 1)), jnp.ones(1), jnp.full(1, 3.999)
    conv.bn.scale[...], conv.bn.bias[...] = jnp.full(1, 6.0), jnp.full(1, -1.0)
    found = conv(jnp.asarray([0.0, 1.0, 2.0, 3.0]).reshape(1, 2, 2, 1))
    np.testing.assert_allclose(found.reshape(-1), [0, 0, 2, 5], atol=1e-6)  # 6 (x - 1) / 2 - 1, below 0: 0


def test_resizing_takes_points_from_the_upper_left():
    images = jnp.asarray([[0.0, 8.0], [16.0, 24.0]]).reshape(1, 2, 2, 1)
    expected = [[0, 4, 8, 8], [8, 12, 16, 16], [16, 20, 24, 24], [16, 20, 24, 24]]  # half-pixel centres: 0, 2, 6, 8
    np.testing.assert_array_equal(resize_as_tensorflow1(images, 4)[0, :, :, 0], expected)
    # Without antialiasing: every other point, the others are not looked at.
    small = jnp.arange(16.0).reshape(1, 4, 4, 1)
    np.testing.assert_array_equal(resize_as_tensorflow1(small, 2)[0, :, :, 0], [[0, 2], [8, 10]])


@pytest.mark.parametrize("shape", [(2, 32, 48, 3), (1, 299, 299, 3)])
def test_pictures_of_any_size_give_2048_features(shape):
    features = nnx.eval_shape(
        lambda images: Inception(rngs=nnx.Rngs(0))(images), nnx.eval_shape(lambda: jnp.zeros(shape, jnp.uint8))
    )
    assert (features.shape, features.dtype) == ((shape[0], FEATURES), jnp.float32)
