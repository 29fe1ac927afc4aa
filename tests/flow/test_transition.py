import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nami_jax.flow.interpolant import stage_ends
from nami_jax.flow.resize import pool, upsample
from nami_jax.flow.stages import make_stages
from nami_jax.flow.transition import renoise

COUNTS = [2, 3, 4]


@pytest.mark.parametrize("sigma_end", [1 / 3, 2 / 3])
def test_pooling_the_result_of_a_jump_gives_back_the_scaled_input(sigma_end):
    x = jax.random.normal(jax.random.key(0), (2, 4, 4, 3))
    noise = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
    np.testing.assert_allclose(pool(renoise(x, noise, sigma_end)), x / (1 + sigma_end), atol=1e-6)


@pytest.mark.parametrize("count", COUNTS)
def test_jump_of_a_training_end_is_the_next_training_start(count):
    stages = make_stages(count)
    latents = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
    noise = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
    for before, after in itertools.pairwise(stages):
        x_end = stage_ends(pool(latents), 2 * pool(noise), before)[1]
        x_start = stage_ends(latents, noise, after)[0]
        np.testing.assert_allclose(renoise(x_end, noise, before.sigma_end), x_start, atol=2e-6)


@pytest.mark.parametrize("count", COUNTS)
def test_jump_gives_the_next_stage_its_mean_and_white_noise(count):
    # One 2x2 block of 1 channel, many times: the 4x4 covariance must be sigma_start^2 times the identity.
    draws = 200_000
    before, after = make_stages(count)[:2]
    latents = jnp.full((draws, 1, 1, 1), 2.0)
    low, high = jax.random.split(jax.random.key(2))
    x_end = stage_ends(latents, jax.random.normal(low, latents.shape), before)[1]
    x = renoise(x_end, jax.random.normal(high, (draws, 2, 2, 1)), before.sigma_end).reshape(draws, 4)
    np.testing.assert_allclose(x.mean(0), 2.0 * (1 - after.sigma_start), atol=0.01)
    np.testing.assert_allclose(np.cov(np.asarray(x).T), after.sigma_start**2 * np.eye(4), atol=0.01)


def test_jump_worked_by_hand():
    x = jnp.full((1, 1, 1, 1), 3.0)
    noise = jnp.array([[1.0, 0.0], [0.0, -1.0]]).reshape(1, 2, 2, 1)  # zero mean
    np.testing.assert_allclose(renoise(x, noise, 0.5), upsample(x) / 1.5 + noise * 2 / 3, rtol=1e-6)
