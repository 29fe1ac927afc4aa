"""Attention of every network, on one device, without L x L weights: by the platform's kernel or in chunks of queries.

TPUs have splash, NVIDIA's GPUs cuDNN's; whatever they do not take, and everything on a CPU, is XLA's. Source:
FlashAttention, arXiv 2205.14135. The reference that all of it is tested against is `jax.nn.dot_product_attention`.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel, splash_attention_mask

LANES = 128  # splash takes lengths that are multiples of this
# Longest block of splash: all keys pass by each block of queries, so a block of b does about b FLOPs for a byte of them.
# A v6e has 560 FLOPs to a byte of its memory. Longer blocks than this leave no room in its fast one.
BLOCK = 2304
KEYS = 512  # of them at once
AMPERE = 8.0  # cuDNN's kernel runs on GPUs of this compute capability and newer

# Measured by `python -m benchmarks.attention`: longer chunks leave a core's cache, shorter ones are poor products.
CHUNK = 512  # queries at once, on a CPU of one head
CHUNK_ELSEWHERE = 1024  # of all heads: an accelerator has the memory, and is idle in a small product

Kernel = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]  # (B, L, N, H), twice (B, M, N, H) -> (B, L, N, H)


def attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    bias: jax.Array | None = None,
    mask: jax.Array | None = None,
    scale: float | None = None,
) -> jax.Array:
    """Attends every query to every key, on any platform. The softmax is in float32.

    Args:
        q: (B, L, N, H).
        k: (B, M, N, H).
        v: (B, M, N, H).
        bias: added to the logits, broadcast to (B, N, L, M); only for sequences whose L x M weights fit in memory.
        mask: true where a query sees a key, broadcast to (B, N, L, M); likewise.
        scale: of the logits; None: 1 / sqrt(H).

    Returns:
        (B, L, N, H).
    """
    q = q * (q.shape[-1] ** -0.5 if scale is None else scale)
    q, k, v = (jnp.moveaxis(x, 2, 1) for x in (q, k, v))  # (B, N, L, H)
    if bias is None and mask is None and q.shape[2] > CHUNK:
        return jnp.moveaxis(_in_chunks(q, k, v), 1, 2)
    return jnp.moveaxis(_attend(q, k, v, bias, mask)[0], 1, 2)


def kernel_for(device: Any, head_dim: int, dtype: Any) -> Kernel:
    """Returns the fastest attention that a device has for heads of `head_dim` channels.

    Args:
        device: one of jax's, present or described by a topology.
        head_dim: H.
        dtype: of queries, keys and values.
    """
    if device.platform == "tpu" and head_dim % LANES == 0:
        return splash_attention
    # AMD's GPUs have the same platform and no cuDNN.
    nvidia = device.platform == "gpu" and device.device_kind.startswith("NVIDIA")
    if nvidia and float(device.compute_capability) >= AMPERE:
        fits = head_dim % 8 == 0 and head_dim <= 128 and jnp.dtype(dtype) in (jnp.bfloat16, jnp.float16)
        return cudnn_attention if fits else attention
    return attention


def splash_attention(q: jax.Array, k: jax.Array, v: jax.Array, interpret: bool = False) -> jax.Array:
    """Attends every query to every key by the TPUs' kernel.

    Args:
        q: (B, L, N, H).
        k: (B, M, N, H).
        v: (B, M, N, H).
        interpret: run the kernel's Python, on any platform, slowly.

    Returns:
        (B, L, N, H).
    """
    length, keys, heads = q.shape[1], k.shape[1], q.shape[2]
    q = q * q.shape[-1] ** -0.5  # the kernel does not scale
    q, k, v = (_pad(x) for x in (q, k, v))  # (B, N, L', H)
    sizes = q.shape[2], k.shape[2]
    segments = None
    if sizes[1] != keys:  # padding is a segment of its own, which no real query sees
        segments = splash_attention_kernel.SegmentIds(
            jnp.zeros(sizes[0], jnp.int32), (jnp.arange(sizes[1]) >= keys).astype(jnp.int32)
        )
    mask = splash_attention_mask.MultiHeadMask([splash_attention_mask.FullMask(sizes)] * heads)
    kernel = splash_attention_kernel.make_splash_mha(
        mask, block_sizes=_block_sizes(*sizes), head_shards=1, q_seq_shards=1, interpret=interpret
    )
    out: Any = jax.vmap(kernel, in_axes=(0, 0, 0, None))(q, k, v, segments)  # (B, N, L', H)
    return jnp.moveaxis(out[:, :, :length], 1, 2)


def cudnn_attention(
    q: jax.Array, k: jax.Array, v: jax.Array, implementation: Literal["cudnn", "xla"] = "cudnn"
) -> jax.Array:
    """Attends every query to every key by the kernel of NVIDIA's GPUs.

    Args:
        q: (B, L, N, H), bfloat16 or float16; H at most 128 and a multiple of 8.
        k: (B, M, N, H).
        v: (B, M, N, H).
        implementation: "xla" runs the same on any platform, without the kernel.

    Returns:
        (B, L, N, H).
    """
    length, keys = q.shape[1], k.shape[1]
    if length % 2 == keys % 2 == 0:
        return jax.nn.dot_product_attention(q, k, v, implementation=implementation)
    # The kernel has no gradient for odd lengths.
    q, k, v = (jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, 0), (0, 0))) for x in (q, k, v))
    real, real_keys = (jnp.full(q.shape[:1], size, jnp.int32) for size in (length, keys))
    out = jax.nn.dot_product_attention(
        q, k, v, query_seq_lengths=real, key_value_seq_lengths=real_keys, implementation=implementation
    )
    return out[:, :length]


def _pad(x: jax.Array) -> jax.Array:
    """Brings (B, L, N, H) to (B, N, L', H) with L' the next length that splash takes."""
    x = jnp.moveaxis(x, 1, 2)
    return jnp.pad(x, ((0, 0), (0, 0), (0, -x.shape[2] % LANES), (0, 0)))


def _block_sizes(length: int, keys: int) -> splash_attention_kernel.BlockSizes:
    q, kv = (_largest_divisor(size, BLOCK) for size in (length, keys))
    few_q, few_kv = (_largest_divisor(size, KEYS) for size in (length, keys))
    return splash_attention_kernel.BlockSizes(
        block_q=q, block_kv=few_kv, block_q_dkv=few_q, block_kv_dkv=kv, block_q_dq=q, block_kv_dq=few_kv
    )


def _largest_divisor(size: int, most: int) -> int:
    """Returns the largest multiple of `LANES` up to `most` that divides `size`."""
    return next(block for block in range(most // LANES * LANES, 0, -LANES) if size % block == 0)


def _attend(
    q: jax.Array, k: jax.Array, v: jax.Array, bias: Any = None, mask: Any = None
) -> tuple[jax.Array, jax.Array]:
    """Attends scaled queries (..., L, H) to keys (..., M, H); returns (..., L, H) and the log of the softmax's sum."""
    logits = jnp.einsum("...lh,...mh->...lm", q, k, preferred_element_type=jnp.float32)
    logits = logits if bias is None else logits + bias
    logits = logits if mask is None else jnp.where(mask, logits, jnp.finfo(jnp.float32).min)
    most = jax.lax.stop_gradient(logits.max(axis=-1, keepdims=True))
    weights = jnp.exp(logits - most)
    total = weights.sum(axis=-1, keepdims=True)
    # Divided after the product, which is H wide instead of M.
    out = jnp.einsum("...lm,...mh->...lh", weights.astype(v.dtype), v, preferred_element_type=jnp.float32) / total
    return out.astype(v.dtype), most + jnp.log(total)


def _by_platform(function: Callable[..., Any], *arrays: jax.Array) -> Any:
    """Calls a function of arrays (B, N, L, ...) with the number of queries, and the map over heads, of the platform."""
    return jax.lax.platform_dependent(
        *arrays,
        cpu=functools.partial(function, CHUNK, jax.lax.map),
        default=functools.partial(function, CHUNK_ELSEWHERE, lambda each, heads: jax.vmap(each)(heads)),
    )


@jax.custom_vjp
def _in_chunks(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """Attends scaled queries (B, N, L, H) to keys and values (B, N, M, H)."""
    return _forward(q, k, v)[0]


def _forward(q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    def attend(chunk: int, over_heads: Any, q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array]:
        def one_head(arrays: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
            q, k, v = arrays  # (L / c, c, H), (M, H), (M, H)
            return jax.lax.map(lambda queries: _attend(queries, k, v), q)

        out, log_sum = over_heads(one_head, (_cut(q, chunk), _heads(k), _heads(v)))
        return _join(out, q), _join(log_sum, q)

    out, log_sum = _by_platform(attend, q, k, v)
    return out, (q, k, v, out, log_sum)


def _backward(kept: tuple[jax.Array, ...], grad: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    q, k, v, out, log_sum = kept
    drop = jnp.sum(grad.astype(jnp.float32) * out.astype(jnp.float32), axis=-1, keepdims=True)  # (B, N, L, 1)
    product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)

    def gradients(chunk: int, over_heads: Any, *arrays: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        q, k, v, *rest = arrays

        def one_head(arrays: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array, jax.Array]:
            k, v, *by_query = arrays

            def one_chunk(sums: tuple[jax.Array, jax.Array], arrays: list[jax.Array]) -> Any:
                q, log_sum, drop, grad = arrays
                weights = jnp.exp(product("lh,mh->lm", q, k) - log_sum)
                grad_logits = (weights * (product("lh,mh->lm", grad, v) - drop)).astype(q.dtype)
                grad_k = sums[0] + product("lm,lh->mh", grad_logits, q)
                grad_v = sums[1] + product("lm,lh->mh", weights.astype(grad.dtype), grad)
                return (grad_k, grad_v), product("lm,mh->lh", grad_logits, k).astype(q.dtype)

            zeros = jnp.zeros(k.shape, jnp.float32), jnp.zeros(v.shape, jnp.float32)
            (grad_k, grad_v), grad_q = jax.lax.scan(one_chunk, zeros, by_query)
            return grad_q, grad_k.astype(k.dtype), grad_v.astype(v.dtype)

        by_query = [_cut(x, chunk) for x in (q, *rest)]
        grad_q, grad_k, grad_v = over_heads(one_head, (_heads(k), _heads(v), *by_query))
        return _join(grad_q, q), grad_k.reshape(k.shape), grad_v.reshape(v.shape)

    return _by_platform(gradients, q, k, v, log_sum, drop, grad)


_in_chunks.defvjp(_forward, _backward)


def _heads(x: jax.Array) -> jax.Array:
    """(B, N, L, H) -> (B N, L, H)."""
    return x.reshape(-1, *x.shape[2:])


def _cut(x: jax.Array, chunk: int) -> jax.Array:
    """(B, N, L, H) -> (B N, L' / c, c, H) in equal chunks of at most `chunk`, the last filled up."""
    count = math.ceil(x.shape[2] / chunk)
    size = math.ceil(x.shape[2] / count)
    x = jnp.pad(_heads(x), ((0, 0), (0, count * size - x.shape[2]), (0, 0)))
    return x.reshape(-1, count, size, x.shape[-1])


def _join(x: jax.Array, like: jax.Array) -> jax.Array:
    """Undoes `_cut` for an array with the leading axes of `like`, (B, N, L, ...)."""
    batch, heads, length = like.shape[:3]
    return x.reshape(batch, heads, -1, x.shape[-1])[:, :, :length]
