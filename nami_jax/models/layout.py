"""What the network needs from whatever spreads it over devices, and the version for one device, which does nothing.

A layout is passed through the call: one network runs anywhere.
"""

from collections.abc import Sequence

import jax

from nami_jax.models.attention import attention


class Layout:
    """Where activations are placed and how attention is computed. This one leaves all of it to a single device."""

    batch_parts = 1  # a batch must be a multiple of this

    def latents(self, x: jax.Array) -> jax.Array:
        """Places what has a batch axis and is not split further: (B, ...)."""
        return x

    def tokens(self, x: jax.Array) -> jax.Array:
        """Places the image's or the joint sequence's tokens between blocks: (B, L, D)."""
        return x

    def channels(self, x: jax.Array) -> jax.Array:
        """Places the channels inside an MLP: (B, L, F)."""
        return x

    def attention(self, q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        """Attends every query to every key: three arrays (B, L, N, H) -> (B, L, N, H)."""
        return attention(q, k, v)

    def require_tokens(self, image_lengths: Sequence[int], text_length: int) -> None:
        """Raises `ConfigError` if the tokens of a stage cannot be shared evenly."""

    def replicate(self, x: jax.Array) -> jax.Array:
        """Copies an array to where every process can read it."""
        return x


ONE_DEVICE = Layout()
