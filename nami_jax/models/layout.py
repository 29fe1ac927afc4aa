"""What the network needs from whatever spreads it over devices, and the version for one device, which does nothing.

A layout is passed through the call: one network runs anywhere.
"""

from collections.abc import Sequence

import jax

from nami_jax.models.attention import attention


class Layout:
    """Where activations are placed and how attention is computed. This one leaves all of it to a single device."""

    batch_parts = 1  # a batch must be a multiple of this

    @property
    def platform(self) -> str:
        """What it is computed on: "cpu", "gpu" or "tpu"."""
        return jax.default_backend()

    @property
    def alone(self) -> bool:
        """Whether one device has all parameters."""
        return True

    @property
    def adds_products(self) -> bool:
        """Whether a product with two arrays side by side is to be a sum of two products.

        On GPUs, where what made the arrays is then written by the products before. Elsewhere one product is faster.
        """
        return self.platform == "gpu"

    @property
    def takes_apart(self) -> bool:
        """Whether a loop of passes should take the blocks apart before it.

        Not where devices share the parameters and gather one block's at a time, nor on TPUs, where it was not tried.
        """
        return self.alone and self.platform != "tpu"

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
