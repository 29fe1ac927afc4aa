"""Rotary position embedding over three axes: text position, row, column. FLUX's form of RoPE (arXiv 2104.09864)."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np


def rotations(
    text_length: int, height: int, width: int, axes: Sequence[int], theta: float
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the cosines and sines for a text-then-image sequence.

    Text tokens stand at position 0 of every axis; the image token of row i and column j stands at (0, i, j).

    Args:
        text_length: text tokens T.
        height: rows of image tokens.
        width: columns of image tokens.
        axes: even sizes, the head channels rotated by each axis; their sum is the head size H.
        theta: base of the frequencies.

    Returns:
        Two arrays (T + height * width, H), float32, equal for both channels of a pair; computed in float64, so they are
        exact constants of a shape.
    """
    rows, columns = np.divmod(np.arange(height * width), width)
    image = np.stack([np.zeros_like(rows), rows, columns], axis=-1)
    positions = np.concatenate([np.zeros((text_length, 3), image.dtype), image])  # (L, 3)
    frequencies = [theta ** -(np.arange(0, size, 2) / size) for size in axes]
    angles = np.concatenate([np.outer(positions[:, a], f) for a, f in enumerate(frequencies)], axis=-1)  # (L, H/2)
    angles = np.repeat(angles, 2, axis=-1)  # (L, H)
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def rotate(x: jax.Array, rotation: tuple[np.ndarray, np.ndarray]) -> jax.Array:
    """Rotates neighbouring channel pairs of queries or keys (B, L, N, H) by their positions' angles, in float32."""
    cos, sin = (r[None, :, None, :] for r in rotation)  # (1, L, 1, H)
    # On TPUs taking pairs of channels apart costs padded copies, and a product with a constant nearly nothing.
    swapped = jax.lax.platform_dependent(x, tpu=_swap_by_product, default=_swap)
    signs = np.tile(np.array([-1, 1], np.float32), x.shape[-1] // 2)
    return (x.astype(jnp.float32) * cos + swapped * (sin * signs)).astype(x.dtype)


def _swap(x: jax.Array) -> jax.Array:
    """Exchanges the channels of each pair: (x0, x1, x2, x3) -> (x1, x0, x3, x2), float32."""
    return x.astype(jnp.float32).reshape(*x.shape[:-1], -1, 2)[..., ::-1].reshape(x.shape)


def _swap_by_product(x: jax.Array) -> jax.Array:
    """As `_swap`, exactly: each sum has one term that is not 0."""
    matrix = np.kron(np.eye(x.shape[-1] // 2), [[0, 1], [1, 0]])  # (H, H)
    return jnp.einsum(
        "blnh,hk->blnk", x, matrix.astype(x.dtype), precision="highest", preferred_element_type=jnp.float32
    )
