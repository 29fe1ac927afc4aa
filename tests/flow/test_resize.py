import jax
import jax.numpy as jnp
import numpy as np

from nami_jax.flow.resize import pool, upsample, zero_block_mean


def test_pool_takes_the_mean_of_each_block():
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    np.testing.assert_array_equal(pool(x)[0, :, :, 0], [[2.5, 4.5], [10.5, 12.5]])


def test_pooling_by_a_factor_is_halving_as_often_and_by_one_changes_nothing():
    x = jax.random.normal(jax.random.key(0), (2, 8, 16, 3))
    np.testing.assert_allclose(pool(x, 4), pool(pool(x)), atol=1e-6)  # sums in another order
    np.testing.assert_array_equal(pool(x, 1), x)


def test_upsample_repeats_each_value_in_a_block():
    x = jnp.array([[1.0, 2.0], [3.0, 4.0]]).reshape(1, 2, 2, 1)
    np.testing.assert_array_equal(upsample(x)[0, :, :, 0], [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]])


def test_pooling_undoes_upsampling():
    x = jax.random.normal(jax.random.key(0), (2, 4, 6, 3))
    np.testing.assert_array_equal(pool(upsample(x)), x)


def test_noise_of_zero_block_mean_pools_to_zero():
    noise = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
    np.testing.assert_allclose(pool(zero_block_mean(noise)), 0, atol=1e-6)
