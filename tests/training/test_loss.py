import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from nami_jax.config import FlowConfig
from nami_jax.data.loader import StageBatch
from nami_jax.flow.interpolant import stage_ends
from nami_jax.flow.stages import make_stages
from nami_jax.flow.transition import Bridged, start_after
from nami_jax.models.bridge import Bridge
from nami_jax.models.nami import Nami
from nami_jax.text.encoders import TextStates
from nami_jax.training.loss import (
    StageDraws,
    by_quartile,
    contrast,
    draw,
    predict,
    squared_errors,
    transition_loss,
)
from tests.support.sizes import MODEL

STAGES = make_stages(3)


class Recorder:
    """Stands where the network does, answers 0 and keeps what it was asked."""

    def __call__(self, x_t, t, text_embeds, pooled, *, stage, layout):
        self.x_t, self.t, self.text_embeds, self.pooled, self.stage = x_t, t, text_embeds, pooled, stage
        self.layout = layout
        return jnp.zeros_like(x_t)


def batch_of(images):
    count = images.shape[0]
    return StageBatch(images, TextStates(np.ones((count, 5, MODEL.text_dim)), np.ones((count, MODEL.pooled_dim))))


NULL = TextStates(np.zeros((1, 5, MODEL.text_dim)), np.zeros((1, MODEL.pooled_dim)))


def test_a_new_network_has_the_loss_of_predicting_zero():
    # Black images, last stage: v = 0.5 n - 0 with the images 0, so the loss is a quarter of the noise's mean square.
    images = jnp.zeros((4, 16, 16, 3))
    draws = draw(jax.random.key(0), images.shape, FlowConfig(), 0.0)
    losses = squared_errors(*predict(Nami(MODEL, rngs=nnx.Rngs(0)), STAGES[2], batch_of(images), NULL, draws))
    np.testing.assert_allclose(losses, 0.25 * jnp.square(draws.noise).mean((1, 2, 3)), rtol=1e-5)


def test_the_network_sees_the_point_on_the_path_and_its_global_time():
    images = jax.random.normal(jax.random.key(1), (3, 8, 8, 3))
    draws = draw(jax.random.key(0), images.shape, FlowConfig(), 0.0)._replace(tau=jnp.array([0.0, 0.5, 1.0]))
    seen = Recorder()
    predict(seen, STAGES[1], batch_of(images), NULL, draws)  # pyright: ignore[reportArgumentType]
    np.testing.assert_allclose(seen.t, [15 / 39, 22 / 39, 29 / 39], rtol=1e-6)
    np.testing.assert_allclose(seen.x_t[0], 2 / 3 * images[0] + 1 / 3 * draws.noise[0], atol=1e-6)
    assert seen.stage == 2


@pytest.mark.parametrize("bridged", [False, True])
def test_a_path_starts_at_the_coarse_images_that_are_given(bridged):
    images, noise = (jax.random.normal(jax.random.key(i), (2, 16, 16, 3)) for i in range(2))
    coarse = jax.random.normal(jax.random.key(2), (2, 8, 8, 3))
    draws = StageDraws(noise, tau=jnp.ones(2), drop=jnp.zeros(2, bool))
    start = start_after(least_squares_bridge(), STAGES[1], images, noise, coarse) if bridged else None
    seen, batch = Recorder(), dataclasses.replace(batch_of(images), coarse=coarse)
    predict(seen, STAGES[2], batch, NULL, draws, start)  # pyright: ignore[reportArgumentType]
    pooled_noise = noise.reshape(2, 8, 2, 8, 2, 3).mean((2, 4))
    wide, wide_noise = (jnp.repeat(jnp.repeat(x, 2, 1), 2, 2) for x in (coarse, pooled_noise))
    # The bridge gives 0.75 of the stage before's end, at noise level 1/3.
    expected = 0.75 * (2 / 3 * wide + 1 / 3 * 2 * wide_noise) if bridged else 0.5 * wide + 0.5 * noise
    np.testing.assert_allclose(seen.x_t, expected, rtol=1e-5, atol=1e-6)
    loss = transition_loss(least_squares_bridge(), STAGES[1], STAGES[2], images, noise, coarse)
    assert float(loss) == pytest.approx(0.5**2 * 3 / 4, rel=0.2)  # as from pooled images: only the noise is unknown


def test_dropped_captions_become_the_empty_one_in_states_and_pooled_vector():
    images = jnp.zeros((2, 4, 4, 3))
    draws = draw(jax.random.key(0), images.shape, FlowConfig(), 0.0)._replace(drop=jnp.array([True, False]))
    seen = Recorder()
    predict(seen, STAGES[0], batch_of(images), NULL, draws)  # pyright: ignore[reportArgumentType]
    assert not seen.text_embeds[0].any()
    assert not seen.pooled[0].any()
    assert seen.text_embeds[1].all()
    assert seen.pooled[1].all()


def test_captions_are_dropped_at_the_given_rate():
    draws = draw(jax.random.key(0), (10_000, 1, 1, 1), FlowConfig(), 0.1)
    assert float(draws.drop.mean()) == pytest.approx(0.1, abs=0.01)


def test_quartiles_count_every_image_once():
    sums, counts = by_quartile(jnp.array([1.0, 2.0, 3.0, 4.0]), jnp.array([0.0, 0.26, 0.99, 1.0]))
    np.testing.assert_array_equal(counts, [1, 1, 0, 2])
    np.testing.assert_array_equal(sums, [1, 2, 0, 7])


def test_contrast_compares_with_the_image_before_it():
    velocity = jnp.arange(3.0).reshape(3, 1, 1, 1)
    predicted = jnp.full((3, 1, 1, 1), 1.0)
    np.testing.assert_array_equal(squared_errors(predicted, velocity), [1, 0, 1])
    np.testing.assert_array_equal(contrast(predicted, velocity), [1, 1, 0])  # of 2, 0, 1


def test_the_best_prediction_under_contrast_is_moved_away_from_the_mean_velocity():
    """Least squares over a large sample: one prediction for each of two captions."""
    weight, keys = 0.05, jax.random.split(jax.random.key(0))
    caption = jax.random.bernoulli(keys[0], 0.25, (40_000,)).astype(int)
    mean = jnp.array([1.0, 3.0])[caption]
    velocity = (mean + jax.random.normal(keys[1], mean.shape))[:, None, None, None]

    def objective(by_caption):
        predicted = by_caption[caption][:, None, None, None]
        return jnp.mean(squared_errors(predicted, velocity) - weight * contrast(predicted, velocity))

    # Quadratic, so one of Newton's steps finds the least.
    zero = jnp.zeros(2)
    best = -jnp.linalg.solve(jax.hessian(objective)(zero), jax.grad(objective)(zero))
    overall = 0.75 * 1.0 + 0.25 * 3.0
    expected = [(each - weight * overall) / (1 - weight) for each in (1.0, 3.0)]
    np.testing.assert_allclose(best, expected, atol=0.03)  # three standard errors of the rarer caption's mean
    assert expected == pytest.approx([1 - 0.05 / 0.95 * 0.5, 3 + 0.05 / 0.95 * 1.5])


def least_squares_bridge(share: float = 0.0):
    bridge = Bridge([(8, 8, 3), (16, 16, 3)])
    bridge.scales[...] = jnp.array([0.6, 0.75])
    return Bridged(bridge, share)


def test_a_bridged_path_starts_where_the_bridge_leads_from_the_stage_before():
    images, noise = (jax.random.normal(jax.random.key(i), (2, 16, 16, 3)) for i in range(2))
    draws = StageDraws(noise, tau=jnp.ones(2), drop=jnp.zeros(2, bool))
    model, bridged = Recorder(), start_after(least_squares_bridge(), STAGES[1], images, noise)
    predict(model, STAGES[2], batch_of(images), NULL, draws, bridged)  # pyright: ignore[reportArgumentType]
    # The stage before ends at noise level 1/3 with the noise pooled and doubled; 0.75 of that, repeated in 2x2 blocks.
    pooled_images, pooled_noise = (x.reshape(2, 8, 2, 8, 2, 3).mean((2, 4)) for x in (images, noise))
    start = 0.75 * jnp.repeat(jnp.repeat(2 / 3 * pooled_images + 1 / 3 * 2 * pooled_noise, 2, 1), 2, 2)
    np.testing.assert_allclose(model.x_t, start, rtol=1e-5, atol=1e-6)


def test_the_least_squares_bridge_misses_only_the_noise_that_renoising_adds():
    images, noise = (jax.random.normal(jax.random.key(i), (64, 16, 16, 3)) for i in range(2))
    jump = least_squares_bridge(), STAGES[1]
    # x_start has noise of level 0.5; its part of zero block mean, 3/4 of the variance, cannot be known.
    assert float(transition_loss(*jump, STAGES[2], images, noise)) == pytest.approx(0.5**2 * 3 / 4, rel=0.02)
    start = start_after(*jump, images, noise)
    np.testing.assert_array_equal(start[:, 0::2, 0::2], start[:, 1::2, 1::2])


def test_a_share_of_noise_is_that_of_the_paths_end():
    images, noise = (jax.random.normal(jax.random.key(i), (64, 16, 16, 3)) for i in range(2))
    # All of it leads to the stage's own start exactly; half of it misses half of it, a quarter of the variance.
    own, _ = stage_ends(images, noise, STAGES[2])
    np.testing.assert_allclose(start_after(least_squares_bridge(1.0), STAGES[1], images, noise), own, atol=2e-6)
    found = transition_loss(least_squares_bridge(0.5), STAGES[1], STAGES[2], images, noise)
    assert float(found) == pytest.approx(0.5**2 * 0.5**2 * 3 / 4, rel=0.02)
