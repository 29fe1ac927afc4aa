import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from nami_jax.config import FlowConfig
from nami_jax.flow.stages import make_stages
from nami_jax.loss import by_quartile, draw, stage_losses
from nami_jax.models.nami import Nami
from tests.sizes import MODEL

STAGES = make_stages(3)


class Recorder:
    """Stands where the network does, answers 0 and keeps what it was asked."""

    def __call__(self, x_t, t, text_embeds, pooled, *, stage):
        self.x_t, self.t, self.text_embeds, self.pooled, self.stage = x_t, t, text_embeds, pooled, stage
        return jnp.zeros_like(x_t)


def batch_of(images):
    count = images.shape[0]
    return {
        "images": images,
        "text_embeds": jnp.ones((count, 5, MODEL.text_dim)),
        "pooled": jnp.ones((count, MODEL.pooled_dim)),
    }


NULL = {"text_embeds": jnp.zeros((1, 5, MODEL.text_dim)), "pooled": jnp.zeros((1, MODEL.pooled_dim))}


def test_a_new_network_has_the_loss_of_predicting_zero():
    # Black images, last stage: v = 0.5 n - 0 with the images 0, so the loss is a quarter of the noise's mean square.
    images = jnp.zeros((4, 16, 16, 3))
    draws = draw(jax.random.key(0), images.shape, FlowConfig(), 0.0)
    losses = stage_losses(Nami(MODEL, rngs=nnx.Rngs(0)), STAGES[2], batch_of(images), NULL, draws)
    np.testing.assert_allclose(losses, 0.25 * jnp.square(draws.noise).mean((1, 2, 3)), rtol=1e-5)


def test_the_network_sees_the_point_on_the_path_and_its_global_time():
    images = jax.random.normal(jax.random.key(1), (3, 8, 8, 3))
    draws = draw(jax.random.key(0), images.shape, FlowConfig(), 0.0)._replace(tau=jnp.array([0.0, 0.5, 1.0]))
    seen = Recorder()
    stage_losses(seen, STAGES[1], batch_of(images), NULL, draws)  # pyright: ignore[reportArgumentType]
    np.testing.assert_allclose(seen.t, [15 / 39, 22 / 39, 29 / 39], rtol=1e-6)
    np.testing.assert_allclose(seen.x_t[0], 2 / 3 * images[0] + 1 / 3 * draws.noise[0], atol=1e-6)
    assert seen.stage == 2


def test_dropped_captions_become_the_empty_one_in_states_and_pooled_vector():
    images = jnp.zeros((2, 4, 4, 3))
    draws = draw(jax.random.key(0), images.shape, FlowConfig(), 0.0)._replace(drop=jnp.array([True, False]))
    seen = Recorder()
    stage_losses(seen, STAGES[0], batch_of(images), NULL, draws)  # pyright: ignore[reportArgumentType]
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
