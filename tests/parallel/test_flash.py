from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nami_jax.parallel.flash import cudnn_attention, flash_attention, kernel_for


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


@pytest.mark.parametrize(("length", "keys"), [(40, 24), (41, 24), (41, 23)], ids=["even", "odd queries", "odd both"])
def test_padding_to_an_even_length_changes_neither_attention_nor_its_gradient(length, keys):
    """By XLA: cuDNN's kernel, which the padding is for, runs on GPUs alone. float32, another order of sums."""
    q, k, v = heads(0, length), heads(1, keys), heads(2, keys)
    weights = jax.random.normal(jax.random.key(3), q.shape)

    def padded(q, k, v):
        return jnp.vdot(weights, cudnn_attention(q, k, v, implementation="xla"))

    def plain(q, k, v):
        return jnp.vdot(weights, jax.nn.dot_product_attention(q, k, v))

    found, expected = (jax.value_and_grad(f, argnums=(0, 1, 2))(q, k, v) for f in (padded, plain))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("platform", "kind", "capability", "head_dim", "dtype", "kernel"),
    [
        ("gpu", "NVIDIA H100 80GB HBM3", "9.0", 128, "bfloat16", cudnn_attention),
        ("gpu", "NVIDIA A100-SXM4-40GB", "8.0", 64, "bfloat16", cudnn_attention),
        ("gpu", "NVIDIA B200", "10.0", 128, "bfloat16", cudnn_attention),
        ("gpu", "NVIDIA H100 80GB HBM3", "9.0", 128, "float32", None),  # cuDNN's takes 16 bits
        ("gpu", "NVIDIA H100 80GB HBM3", "9.0", 36, "bfloat16", None),
        ("gpu", "NVIDIA H100 80GB HBM3", "9.0", 256, "bfloat16", None),
        ("gpu", "Tesla V100-SXM2-16GB", "7.0", 128, "bfloat16", None),
        ("gpu", "AMD Instinct MI300X", "gfx942", 128, "bfloat16", None),
        ("tpu", "TPU v5 lite", None, 128, "bfloat16", flash_attention),
        ("tpu", "TPU v5 lite", None, 64, "bfloat16", None),
        ("cpu", "cpu", None, 128, "bfloat16", None),
    ],
)
def test_a_device_has_a_kernel_for_the_heads_that_it_takes(platform, kind, capability, head_dim, dtype, kernel):
    device = SimpleNamespace(platform=platform, device_kind=kind, compute_capability=capability)
    assert kernel_for(device, head_dim, dtype) is kernel
