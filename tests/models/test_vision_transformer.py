import jax.numpy as jnp
import numpy as np
from flax import nnx

from nami_jax.models.vision_transformer import PatchEmbedding, PreNormLayer, normalise, with_first


def test_patches_are_read_row_by_row():
    patches = PatchEmbedding(2, 1, False, rngs=nnx.Rngs(0))
    patches.projection.kernel[...] = jnp.ones_like(patches.projection.kernel[...]) / 12
    images = np.repeat(np.arange(6.0).reshape(1, 2, 3, 1), 2, axis=1).repeat(2, axis=2).repeat(3, axis=3)
    np.testing.assert_allclose(patches(jnp.asarray(images, jnp.float32))[0, :, 0], np.arange(6.0), rtol=1e-6)


def test_layer_scales_of_zero_leave_the_states():
    layer = PreNormLayer(8, 12, 2, 1e-6, nnx.silu, True, rngs=nnx.Rngs(0))
    states = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 8)), jnp.float32)
    assert np.abs(layer(states) - states).max() > 0.1
    layer.layer_scale1[...] = layer.layer_scale2[...] = jnp.zeros(8)
    np.testing.assert_array_equal(layer(states), states)


def test_levels_are_normalised_by_channel():
    found = normalise(jnp.full((1, 1, 1, 3), 255, jnp.uint8), (0.5, 0.0, 1.0), (0.5, 2.0, 1.0))
    np.testing.assert_allclose(np.asarray(found).reshape(-1), [1.0, 0.5, 0.0])


def test_the_first_token_stands_before_those_of_every_image():
    found = with_first(jnp.full(2, 7.0), jnp.zeros((3, 4, 2)))
    np.testing.assert_array_equal(found[:, 0], np.full((3, 2), 7.0))
    np.testing.assert_array_equal(found[:, 1:], np.zeros((3, 4, 2)))
