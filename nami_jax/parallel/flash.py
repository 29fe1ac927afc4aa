"""Attention on one TPU core that never holds the L x L weights: JAX's splash kernel, for any length.

Source: FlashAttention, arXiv 2205.14135; the kernel is jax.experimental.pallas.ops.tpu.splash_attention.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel, splash_attention_mask

LANES = 128  # the kernel takes lengths that are multiples of this
BLOCKS = (512, 256, 128)  # the largest that divides the length is used


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


def _pad(x: jax.Array) -> jax.Array:
    """Brings (B, L, N, H) to (B, N, L', H) with L' the next length that the kernel takes."""
    x = jnp.moveaxis(x, 1, 2)
    return jnp.pad(x, ((0, 0), (0, 0), (0, -x.shape[2] % LANES), (0, 0)))


def _block_sizes(length: int, keys: int) -> splash_attention_kernel.BlockSizes:
    q, kv = (next(block for block in BLOCKS if size % block == 0) for size in (length, keys))
    return splash_attention_kernel.BlockSizes(
        block_q=q, block_kv=kv, block_q_dkv=q, block_kv_dkv=kv, block_q_dq=q, block_kv_dq=kv
    )
