import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from nami_jax.models.layers import Modulation, adaptable, apply_to_parts, layer_norm, modulate, time_waves
from tests.support.sizes import MODEL


def test_layer_norm_gives_mean_zero_and_variance_one_in_float32():
    x = (3 + 5 * jax.random.normal(jax.random.key(0), (4, 256))).astype(jnp.bfloat16)
    y = layer_norm(x)
    assert y.dtype == jnp.float32
    np.testing.assert_allclose(y.mean(-1), 0, atol=1e-5)
    np.testing.assert_allclose(y.var(-1), 1, atol=1e-4)


def test_modulate_keeps_the_compute_type():
    x = jnp.ones((1, 2, 4), jnp.bfloat16)
    assert modulate(x, jnp.ones((1, 1, 4)), jnp.ones((1, 1, 4))).dtype == jnp.bfloat16


@pytest.mark.parametrize("rank", [None, 2])
def test_a_layer_of_parts_is_that_of_their_concatenation(rank):
    layer = adaptable(dataclasses.replace(MODEL, lora_rank=rank), 12, 5, nnx.Rngs(0))
    assert layer.bias is not None
    layer.bias[...] = jnp.arange(5.0)
    if rank:
        layer.lora.lora_b[...] = jnp.ones((rank, 5))  # pyright: ignore[reportAttributeAccessIssue]
    parts = jax.random.normal(jax.random.key(0), (2, 3, 8)), jax.random.normal(jax.random.key(1), (2, 3, 4))
    expected = layer(jnp.concatenate(parts, axis=-1))
    for join in (True, False):
        np.testing.assert_allclose(apply_to_parts(layer, parts, join), expected, rtol=1e-5, atol=1e-6)


def test_new_modulation_is_zero():
    modulation = Modulation(MODEL, 3, rngs=nnx.Rngs(0))
    vectors = modulation.vectors(modulation(jnp.ones((2, MODEL.width))))
    assert [v.shape for v in vectors] == [(2, 1, MODEL.width)] * 3
    assert all(not v.any() for v in vectors)


def test_time_waves_worked_by_hand():
    waves = time_waves(jnp.array([0.0, 0.001]))
    assert waves.shape == (2, 256)
    np.testing.assert_array_equal(waves[0], [1.0] * 128 + [0.0] * 128)
    np.testing.assert_allclose(waves[1, [0, 128]], [np.cos(1), np.sin(1)], rtol=1e-6)
    np.testing.assert_allclose(waves[1, 64], np.cos(10000**-0.5), rtol=1e-6)
