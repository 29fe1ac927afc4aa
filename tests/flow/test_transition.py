import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nami_jax.flow.interpolant import end_before, stage_ends
from nami_jax.flow.resize import pool, upsample
from nami_jax.flow.stages import make_stages
from nami_jax.flow.transition import Bridged, Renoise, make_transition

COUNTS = [2, 3, 4]


@pytest.mark.parametrize("before", make_stages(3)[:2])
def test_pooling_the_result_of_a_jump_gives_back_the_scaled_input(before):
    x = jax.random.normal(jax.random.key(0), (2, 4, 4, 3))
    noise = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
    np.testing.assert_allclose(pool(Renoise()(x, noise, before)), x / (1 + before.sigma_end), atol=1e-6)


@pytest.mark.parametrize("count", COUNTS)
def test_jump_of_a_training_end_is_the_next_training_start(count):
    stages = make_stages(count)
    latents = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
    noise = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
    for before, after in itertools.pairwise(stages):
        x_end = stage_ends(pool(latents), 2 * pool(noise), before)[1]
        x_start = stage_ends(latents, noise, after)[0]
        np.testing.assert_allclose(Renoise()(x_end, noise, before), x_start, atol=2e-6)


def test_a_jump_leads_to_the_next_training_start_from_any_coarse_image():
    """What the stage before was trained on need not be the pooled latents: it can be encoded from pooled pixels."""
    latents, noise = (jax.random.normal(jax.random.key(i), (2, 8, 8, 3)) for i in range(2))
    coarse = jax.random.normal(jax.random.key(2), (2, 4, 4, 3))
    before, after = make_stages(3)[1:]
    x_end = stage_ends(coarse, 2 * pool(noise), before)[1]
    x_start, at_end = stage_ends(latents, noise, after, coarse)
    np.testing.assert_allclose(Renoise()(x_end, noise, before), x_start, atol=2e-6)
    np.testing.assert_allclose(end_before(latents, noise, before.sigma_end, coarse), x_end, atol=1e-6)
    np.testing.assert_array_equal(at_end, stage_ends(latents, noise, after)[1])
    assert float(jnp.abs(x_start - stage_ends(latents, noise, after)[0]).max()) > 0.1


@pytest.mark.parametrize("count", COUNTS)
def test_jump_gives_the_next_stage_its_mean_and_white_noise(count):
    # One 2x2 block of 1 channel, many times: the 4x4 covariance must be sigma_start^2 times the identity.
    draws = 200_000
    before, after = make_stages(count)[:2]
    latents = jnp.full((draws, 1, 1, 1), 2.0)
    low, high = jax.random.split(jax.random.key(2))
    x_end = stage_ends(latents, jax.random.normal(low, latents.shape), before)[1]
    x = Renoise()(x_end, jax.random.normal(high, (draws, 2, 2, 1)), before).reshape(draws, 4)
    np.testing.assert_allclose(x.mean(0), 2.0 * (1 - after.sigma_start), atol=0.01)
    np.testing.assert_allclose(np.cov(np.asarray(x).T), after.sigma_start**2 * np.eye(4), atol=0.01)


def test_jump_worked_by_hand():
    x = jnp.full((1, 1, 1, 1), 3.0)
    noise = jnp.array([[1.0, 0.0], [0.0, -1.0]]).reshape(1, 2, 2, 1)  # zero mean
    before = make_stages(2)[0]  # ends at the noise level 0.5
    np.testing.assert_allclose(Renoise()(x, noise, before), upsample(x) / 1.5 + noise * 2 / 3, rtol=1e-6)


@jax.tree_util.register_pytree_node_class
class Scale:
    """A bridge that multiplies by its one parameter and the stage's number."""

    def __init__(self, factor):
        self.factor = factor

    def __call__(self, upsampled, *, stage):
        return self.factor * stage * upsampled

    def require_size(self, height, width):
        raise ValueError(f"not {height}x{width}")

    def tree_flatten(self):
        return (self.factor,), None

    @classmethod
    def tree_unflatten(cls, aux, children):
        return cls(*children)


def test_a_bridge_is_given_the_upsampled_result_and_the_next_stages_number():
    x, transition = jnp.arange(12.0).reshape(1, 2, 2, 3), make_transition(Scale(0.5))
    np.testing.assert_array_equal(transition(x, None, make_stages(3)[1]), 1.5 * upsample(x))
    with pytest.raises(ValueError, match="not 8x4"):
        transition.require_size(8, 4)


def test_a_bridge_adds_its_share_of_the_noise_of_zero_block_mean():
    x, before = jnp.full((1, 1, 1, 1), 3.0), make_stages(2)[0]  # ends at the noise level 0.5, and 2e/(1+e) is 2/3
    noise = jnp.array([[5.0, 3.0], [1.0, 7.0]]).reshape(1, 2, 2, 1)  # mean 4
    jump = make_transition(Scale(0.5), 0.25)
    expected = np.array([[3 + 1 / 6, 3 - 1 / 6], [3 - 1 / 2, 3 + 1 / 2]]).reshape(1, 2, 2, 1)
    np.testing.assert_allclose(jump(x, noise, before), expected, rtol=1e-6)


def test_without_a_share_a_bridge_needs_no_noise_and_is_as_released():
    x, before, noise = jnp.ones((1, 1, 1, 1)), make_stages(2)[0], jnp.ones((1, 2, 2, 1)).at[0, 0, 0, 0].set(9)
    released, noisy = make_transition(Scale(0.5)), make_transition(Scale(0.5), 0.1)
    assert (released.share, noisy.share) == (0, 0.1)
    np.testing.assert_array_equal(released(x, noise, before), upsample(x))


def test_all_of_the_noise_after_the_best_bridge_is_renoising():
    before = make_stages(2)[0]
    x, noise = (jax.random.normal(jax.random.key(i), (2, 4 + 4 * i, 4 + 4 * i, 3)) for i in range(2))
    best = Scale(0.5 / (1 + before.sigma_end))  # of stage 2, by which it multiplies as well
    np.testing.assert_allclose(make_transition(best, 1.0)(x, noise, before), Renoise()(x, noise, before), atol=1e-6)


def test_without_a_bridge_the_jump_renoises_and_takes_any_size():
    transition = make_transition(None)
    assert transition == Renoise()
    transition.require_size(3, 5)
    assert transition.share == 1


def test_a_transition_is_an_argument_of_compiled_functions():
    before, x, noise = make_stages(2)[0], jnp.ones((1, 1, 1, 1)), jnp.zeros((1, 2, 2, 1))
    jump = jax.jit(lambda transition, x, noise: transition(x, noise, before))
    np.testing.assert_array_equal(jump(Renoise(), x, noise), Renoise()(x, noise, before))
    for factor in (0.5, 2.0):
        np.testing.assert_array_equal(jump(Bridged(Scale(factor)), x, None), jnp.full((1, 2, 2, 1), 2 * factor))
    assert jump._cache_size() == 2  # pyright: ignore[reportAttributeAccessIssue]
    assert not jax.tree.leaves(Renoise())
