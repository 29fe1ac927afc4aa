"""Attention on one device that never holds the L x L weights, for any length: splash on TPUs, cuDNN's on NVIDIA GPUs.

Source: FlashAttention, arXiv 2205.14135; the kernels are jax.experimental.pallas.ops.tpu.splash_attention and cuDNN's
fused attention, which jax calls.
"""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel, splash_attention_mask

LANES = 128  # the kernel takes lengths that are multiples of this
BLOCKS = (512, 256, 128)  # the largest that divides the length is used

AMPERE = 8.0  # cuDNN's kernel runs on GPUs of this compute capability and newer

Kernel = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]  # (B, L, N, H), twice (B, M, N, H) -> (B, L, N, H)


def kernel_for(device: Any, head_dim: int, dtype: Any) -> Kernel | None:
    """Returns the kernel that a device has for heads of `head_dim` channels; None: it has none.

    Args:
        device: one of jax's, present or described by a topology.
        head_dim: H.
        dtype: of queries, keys and values.
    """
    if device.platform == "tpu" and head_dim % LANES == 0:
        return flash_attention
    # AMD's GPUs have the same platform and no cuDNN.
    nvidia = device.platform == "gpu" and device.device_kind.startswith("NVIDIA")
    if nvidia and float(device.compute_capability) >= AMPERE:
        fits = head_dim % 8 == 0 and head_dim <= 128 and jnp.dtype(dtype) in (jnp.bfloat16, jnp.float16)
        return cudnn_attention if fits else None
    return None


def flash_attention(q: jax.Array, k: jax.Array, v: jax.Array, interpret: bool = False) -> jax.Array:
    """Attends every query to every key.

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
    """Attends every query to every key.

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
    """Brings (B, L, N, H) to (B, N, L', H) with L' the next length that the kernel takes."""
    x = jnp.moveaxis(x, 1, 2)
    return jnp.pad(x, ((0, 0), (0, 0), (0, -x.shape[2] % LANES), (0, 0)))


def _block_sizes(length: int, keys: int) -> splash_attention_kernel.BlockSizes:
    q, kv = (next(block for block in BLOCKS if size % block == 0) for size in (length, keys))
    return splash_attention_kernel.BlockSizes(
        block_q=q, block_kv=kv, block_q_dkv=q, block_kv_dkv=kv, block_q_dq=q, block_kv_dq=kv
    )
