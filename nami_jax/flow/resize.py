"""The changes of size that relate neighbouring stages, of NHWC arrays."""

import jax.numpy as jnp
from einops import reduce, repeat


def pool(x, factor: int = 2):
    """Divides height and width by a factor f, by the mean of f x f blocks: (B, H, W, C) -> (B, H/f, W/f, C)."""
    return reduce(x, "b (h p) (w q) c -> b h w c", "mean", p=factor, q=factor)


def upsample(x):
    """Doubles height and width by repeating each value in a 2x2 block: (B, H, W, C) -> (B, 2H, 2W, C)."""
    return repeat(x, "b h w c -> b (h p) (w q) c", p=2, q=2)


def zero_block_mean(noise: jnp.ndarray) -> jnp.ndarray:
    """Removes from each 2x2 block its mean: what is left of white noise pools to zero."""
    return noise - upsample(pool(noise))
