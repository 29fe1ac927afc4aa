"""The layer that DINOv2 and CLIP share, and how they cut images into patches."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from nami_jax.models.attention import attention
from nami_jax.models.layers import affine_norm

Activation = Callable[[jax.Array], jax.Array]


class PreNormLayer(nnx.Module):
    """Self-attention, then an MLP, each of its normalised input, scaled by channel and added to it.

    Dosovitskiy et al., arXiv 2010.11929, eq. 2 and 3; the scales are those of Touvron et al., arXiv 2103.17239.
    """

    def __init__(
        self,
        width: int,
        hidden: int,
        heads: int,
        epsilon: float,
        activation: Activation,
        scaled: bool,
        *,
        rngs: nnx.Rngs,
    ):
        self.num_heads, self.activation, self.scaled = heads, activation, scaled
        self.norm1, self.norm2 = affine_norm(width, epsilon, rngs), affine_norm(width, epsilon, rngs)
        self.query = nnx.Linear(width, width, rngs=rngs)
        self.key = nnx.Linear(width, width, rngs=rngs)
        self.value = nnx.Linear(width, width, rngs=rngs)
        self.attention_out = nnx.Linear(width, width, rngs=rngs)
        self.mlp_in = nnx.Linear(width, hidden, rngs=rngs)
        self.mlp_out = nnx.Linear(hidden, width, rngs=rngs)
        if scaled:
            self.layer_scale1 = nnx.Param(jnp.ones(width))
            self.layer_scale2 = nnx.Param(jnp.ones(width))

    def __call__(self, states: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """Maps states (B, L, D) to states (B, L, D), float32; `mask` as `attention` takes it."""
        normed = self.norm1(states)
        query, key, value = (
            rearrange(project(normed), "b l (n h) -> b l n h", n=self.num_heads)
            for project in (self.query, self.key, self.value)
        )
        attended = attention(query, key, value, mask=mask)  # (B, L, N, H), softmax in float32
        attended = self.attention_out(rearrange(attended, "b l n h -> b l (n h)"))
        states = states + (attended * self.layer_scale1[None, None] if self.scaled else attended)
        hidden = self.mlp_out(self.activation(self.mlp_in(self.norm2(states))))
        return states + (hidden * self.layer_scale2[None, None] if self.scaled else hidden)


class PatchEmbedding(nnx.Module):
    """Cuts images into squares and maps each to a token."""

    def __init__(self, patch: int, width: int, use_bias: bool, *, rngs: nnx.Rngs):
        self.projection = nnx.Conv(
            3, width, (patch, patch), (patch, patch), padding="VALID", use_bias=use_bias, rngs=rngs
        )

    def __call__(self, images: jax.Array) -> jax.Array:
        """Maps (B, H, W, 3) to (B, H/patch W/patch, D), row by row."""
        return rearrange(self.projection(images), "b h w d -> b (h w) d")


def exact_gelu(x: jax.Array) -> jax.Array:
    """Returns the GELU that DINOv2 and later CLIPs were trained with, not its tanh approximation."""
    return jax.nn.gelu(x, approximate=False)


def with_first(first: jax.Array, tokens: jax.Array) -> jax.Array:
    """Puts the vector `first` (D,) before the tokens (B, L, D) of every image: (B, 1 + L, D)."""
    begin = jnp.broadcast_to(first[None, None], (len(tokens), 1, tokens.shape[-1]))
    return jnp.concatenate([begin, tokens], axis=1)


def normalise(images: jax.Array, mean: tuple[float, ...], deviation: tuple[float, ...]) -> jax.Array:
    """Maps levels 0..255 (B, H, W, 3) to float32 of mean 0 and deviation 1, both given for levels of 0..1."""
    levels = images.astype(jnp.float32) / 255
    return (levels - jnp.asarray(mean)[None, None, None]) / jnp.asarray(deviation)[None, None, None]
