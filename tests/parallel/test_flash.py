import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nami_jax.parallel.flash import flash_attention


def heads(key: int, length: int):
    return jax.random.normal(jax.random.key(key), (1, length, 2, 128))


@pytest.mark.parametrize(("length", "keys"), [(128, 128), (40, 130)], ids=["whole tiles", "padded"])
def test_kernel_is_attention_and_has_its_gradient(length, keys):
    """The kernel interpreted on CPU; both sides in float32, which differ in the order of sums alone."""
    q, k, v = heads(0, length), heads(1, keys), heads(2, keys)
    weights = jax.random.normal(jax.random.key(3), q.shape)

    def flash(q, k, v):
        return jnp.vdot(weights, flash_attention(q, k, v, interpret=True))

    def plain(q, k, v):
        return jnp.vdot(weights, jax.nn.dot_product_attention(q, k, v))

    found, expected = (jax.value_and_grad(f, argnums=(0, 1, 2))(q, k, v) for f in (flash, plain))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
