from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nami_jax.models.attention import CHUNK, attention, cudnn_attention, kernel_for, splash_attention


def heads(key: int, length: int):
    return jax.random.normal(jax.random.key(key), (1, length, 2, 128))


@pytest.mark.parametrize(("length", "keys"), [(128, 128), (40, 130)], ids=["whole tiles", "padded"])
def test_kernel_is_attention_and_has_its_gradient(length, keys):
    """The kernel interpreted on CPU; both sides in float32, which differ in the order of sums alone."""
    q, k, v = heads(0, length), heads(1, keys), heads(2, keys)
    weights = jax.random.normal(jax.random.key(3), q.shape)

    def flash(q, k, v):
        return jnp.vdot(weights, splash_attention(q, k, v, interpret=True))

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
        ("gpu", "NVIDIA H100 80GB HBM3", "9.0", 128, "float32", attention),  # cuDNN's takes 16 bits
        ("gpu", "NVIDIA H100 80GB HBM3", "9.0", 36, "bfloat16", attention),
        ("gpu", "NVIDIA H100 80GB HBM3", "9.0", 256, "bfloat16", attention),
        ("gpu", "Tesla V100-SXM2-16GB", "7.0", 128, "bfloat16", attention),
        ("gpu", "AMD Instinct MI300X", "gfx942", 128, "bfloat16", attention),
        ("tpu", "TPU v5 lite", None, 128, "bfloat16", splash_attention),
        ("tpu", "TPU v5 lite", None, 64, "bfloat16", attention),
        ("cpu", "cpu", None, 128, "bfloat16", attention),
    ],
)
def test_a_device_has_the_fastest_for_the_heads_that_it_takes(platform, kind, capability, head_dim, dtype, kernel):
    device = SimpleNamespace(platform=platform, device_kind=kind, compute_capability=capability)
    assert kernel_for(device, head_dim, dtype) is kernel


def gradients(attend, *arrays):
    """Returns a weighted sum of what `attend` gives, and its gradients."""
    weights = jax.random.normal(jax.random.key(9), arrays[0].shape)
    return jax.value_and_grad(lambda *x: jnp.vdot(weights, attend(*x).astype(jnp.float32)), argnums=(0, 1, 2))(*arrays)


@pytest.mark.parametrize(
    ("length", "keys"),
    [(40, 24), (CHUNK, 30), (CHUNK + 1, 30), (3 * CHUNK - 2, 61)],
    ids="short longest odd several".split(),
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_attention_on_any_platform_is_that_of_jax_with_its_gradient(length, keys, dtype):
    """float32: another order of sums. bfloat16: two roundings of 2^-9 in another order, against the sum of many."""
    arrays = [
        jax.random.normal(jax.random.key(i), (2, n, 2, 16)).astype(dtype) for i, n in enumerate((length, keys, keys))
    ]
    found = gradients(attention, *arrays)
    expected = gradients(jax.nn.dot_product_attention, *(x.astype(jnp.float32) for x in arrays))
    tolerance = 1e-5 if dtype == "float32" else 2e-2
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        b = np.asarray(b)
        np.testing.assert_allclose(np.asarray(a, np.float32), b, atol=tolerance * max(1, abs(b).max()))
    assert all(gradient.dtype == dtype for gradient in found[1])


def test_bias_mask_and_scale_are_those_of_jax():
    q, k, v = heads(0, 20), heads(1, 24), heads(2, 24)
    bias = jax.random.normal(jax.random.key(3), (1, 2, 20, 24))
    mask = jax.random.bernoulli(jax.random.key(4), 0.7, (1, 1, 1, 24))
    found = attention(q, k, v, bias, mask, scale=0.5)
    np.testing.assert_allclose(found, jax.nn.dot_product_attention(q, k, v, bias, mask, scale=0.5), atol=1e-5)


def test_long_sequences_hold_no_weights_of_all_queries_and_keys():
    length = 4 * CHUNK
    q = jax.ShapeDtypeStruct((1, length, 4, 64), jnp.float32)

    def temporaries(function):
        analysis = jax.jit(function).lower(q, q, q).compile().memory_analysis()
        assert analysis is not None
        return analysis.temp_size_in_bytes

    weights = 4 * length * length * 4
    assert temporaries(jax.nn.dot_product_attention) >= weights
    assert temporaries(attention) < weights
    assert temporaries(lambda *x: gradients(attention, *x)) < weights
