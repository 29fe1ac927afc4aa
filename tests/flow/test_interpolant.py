import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nami_jax.flow.interpolant import carried_noise, clean_estimate, end_before, interpolate, stage_ends
from nami_jax.flow.resize import pool, upsample
from nami_jax.flow.stages import make_stages
from nami_jax.flow.transition import Bridged, path_ends


def latents_and_noise(side: int = 8):
    keys = jax.random.split(jax.random.key(0))
    return tuple(jax.random.normal(key, (2, side, side, 3)) for key in keys)


def test_a_single_stage_runs_from_noise_to_data():
    latents, noise = latents_and_noise()
    x_start, x_end = stage_ends(latents, noise, make_stages(1)[0])
    np.testing.assert_array_equal(x_start, noise)
    np.testing.assert_array_equal(x_end, latents)


def test_first_stage_starts_from_pure_noise_and_last_ends_in_data():
    latents, noise = latents_and_noise()
    first, _, last = make_stages(3)
    np.testing.assert_array_equal(stage_ends(latents, noise, first)[0], noise)
    np.testing.assert_array_equal(stage_ends(latents, noise, last)[1], latents)


def test_ends_of_the_middle_stage_worked_by_hand():
    latents = jnp.array([[0.0, 4.0], [4.0, 8.0]]).reshape(1, 2, 2, 1)  # block mean 4
    noise = jnp.full((1, 2, 2, 1), 3.0)
    x_start, x_end = stage_ends(latents, noise, make_stages(3)[1])
    np.testing.assert_allclose(x_start, np.full((1, 2, 2, 1), 0.2 * 4 + 0.8 * 3), rtol=1e-6)
    np.testing.assert_allclose(x_end[0, :, :, 0], 2 / 3 * np.array([[0, 4], [4, 8]]) + 1, rtol=1e-6)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_path_joins_its_ends_and_velocity_is_their_difference(number):
    latents, noise = latents_and_noise()
    ends = stage_ends(latents, noise, make_stages(3)[number - 1])
    at_start, velocity = interpolate(*ends, jnp.ones(2))
    at_end, _ = interpolate(*ends, jnp.zeros(2))
    np.testing.assert_allclose(at_start, ends[0], atol=1e-6)
    np.testing.assert_allclose(at_end, ends[1], atol=1e-6)
    np.testing.assert_allclose(at_end + velocity, at_start, atol=1e-6)


def test_both_ends_share_their_noise():
    # With data that pooling keeps, the whole path stays on the line between data and one noise.
    latents, noise = upsample(latents_and_noise(4)[0]), latents_and_noise(8)[1]
    stage = make_stages(3)[1]
    x_start, x_end = stage_ends(latents, noise, stage)
    np.testing.assert_allclose((x_start - x_end) / (stage.sigma_start - stage.sigma_end), noise - latents, atol=1e-5)


def test_the_stage_before_ends_in_the_pooled_image_and_standard_normal_noise():
    end = end_before(jnp.ones((1, 4, 4, 1)), jnp.full((1, 4, 4, 1), 3.0), 0.25)
    np.testing.assert_allclose(end, np.full((1, 2, 2, 1), 0.75 + 0.25 * 2 * 3))
    noise = jax.random.normal(jax.random.key(0), (64, 16, 16, 3))
    assert float(end_before(jnp.zeros_like(noise), noise, 1.0).std()) == pytest.approx(1, rel=0.02)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_stage_s_end_and_its_true_velocity_say_the_clean_latents(number):
    latents, noise = latents_and_noise()
    stage = make_stages(3)[number - 1]
    x_start, x_end = stage_ends(latents, noise, stage)
    np.testing.assert_allclose(clean_estimate(x_end, x_start - x_end, stage), latents, rtol=1e-4, atol=1e-5)
    blocks = clean_estimate(x_end, x_start - x_end, stage, share=0)
    expected = upsample(pool(latents)) if number == 2 else latents
    np.testing.assert_allclose(blocks, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_a_start_with_a_share_of_the_noise_says_the_clean_latents_too(share):
    latents, noise = latents_and_noise()
    before, stage = make_stages(3)[:2]
    best = Bridged(lambda x, stage: x / (1 + before.sigma_end), share)  # pyright: ignore[reportArgumentType]
    x_start, x_end = path_ends(best, before, stage, latents, noise)
    np.testing.assert_allclose(clean_estimate(x_end, x_start - x_end, stage, share), latents, rtol=1e-4, atol=1e-5)


def test_carried_noise_pools_to_half_of_that_before_and_is_white():
    keys = jax.random.split(jax.random.key(1))
    before, fresh = jax.random.normal(keys[0], (4, 32, 32, 3)), jax.random.normal(keys[1], (4, 64, 64, 3))
    noise = carried_noise(before, fresh)
    np.testing.assert_allclose(2 * pool(noise), before, rtol=1e-4, atol=1e-5)
    blocks = np.asarray(noise).reshape(4, 32, 2, 32, 2, 3).transpose(2, 4, 0, 1, 3, 5).reshape(4, -1)
    np.testing.assert_allclose(np.cov(blocks), np.eye(4), atol=0.05)  # 12,288 draws
