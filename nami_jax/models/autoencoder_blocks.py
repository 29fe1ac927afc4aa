"""The parts of an AutoencoderKL: residual blocks, single-head attention, and the blocks between two resolutions.

Attributes have the names of diffusers' modules, so that parameters and released keys correspond one to one. All maps
are (B, H, W, channels).

Convolutions and projections compute in `dtype`. What blocks add to is float32, else each of them would round it again.
"""

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from nami_jax.models.attention import attention

DType = jax.typing.DTypeLike


def conv(inputs: int, outputs: int, side: int, dtype: DType, rngs: nnx.Rngs) -> nnx.Conv:
    """Builds a `side` x `side` convolution that keeps height and width; `side` is odd."""
    return nnx.Conv(inputs, outputs, (side, side), padding=side // 2, dtype=dtype, rngs=rngs)


def group_norm(channels: int, groups: int, rngs: nnx.Rngs) -> nnx.GroupNorm:
    """Builds a group norm that computes and returns float32 (epsilon 1e-6, as diffusers)."""
    # The two-pass variance: E[x²] - E[x]² loses digits where a picture's mean is far from 0.
    return nnx.GroupNorm(channels, groups, epsilon=1e-6, use_fast_variance=False, dtype=jnp.float32, rngs=rngs)


class ResnetBlock(nnx.Module):
    """Norm, SiLU, convolution, twice; added to the input, which a 1x1 convolution brings to `outputs` channels."""

    def __init__(self, inputs: int, outputs: int, groups: int, *, dtype: DType, rngs: nnx.Rngs):
        self.norm1 = group_norm(inputs, groups, rngs)
        self.conv1 = conv(inputs, outputs, 3, dtype, rngs)
        self.norm2 = group_norm(outputs, groups, rngs)
        self.conv2 = conv(outputs, outputs, 3, dtype, rngs)
        self.conv_shortcut = conv(inputs, outputs, 1, dtype, rngs) if inputs != outputs else None

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (B, H, W, inputs) to (B, H, W, outputs), float32."""
        hidden = self.conv1(nnx.silu(self.norm1(x)))
        hidden = self.conv2(nnx.silu(self.norm2(hidden)))
        shortcut = x if self.conv_shortcut is None else self.conv_shortcut(x)
        return shortcut.astype(jnp.float32) + hidden


class Attention(nnx.Module):
    """Self-attention of all pixels with one head as wide as the map, added to the input."""

    def __init__(self, channels: int, groups: int, *, dtype: DType, rngs: nnx.Rngs):
        self.group_norm = group_norm(channels, groups, rngs)
        self.to_q = nnx.Linear(channels, channels, dtype=dtype, rngs=rngs)
        self.to_k = nnx.Linear(channels, channels, dtype=dtype, rngs=rngs)
        self.to_v = nnx.Linear(channels, channels, dtype=dtype, rngs=rngs)
        self.to_out = nnx.List([nnx.Linear(channels, channels, dtype=dtype, rngs=rngs)])

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (B, H, W, D) float32 to the same."""
        tokens = rearrange(self.group_norm(x), "b h w d -> b (h w) 1 d")  # (B, L, N = 1, D)
        attended = attention(self.to_q(tokens), self.to_k(tokens), self.to_v(tokens))
        return x + self.to_out[0](attended).reshape(x.shape)


class MidBlock(nnx.Module):
    """A residual block, attention if asked for, and another residual block, at the lowest resolution."""

    def __init__(self, channels: int, groups: int, add_attention: bool, *, dtype: DType, rngs: nnx.Rngs):
        self.resnets = nnx.List([ResnetBlock(channels, channels, groups, dtype=dtype, rngs=rngs) for _ in range(2)])
        self.attentions = nnx.List([Attention(channels, groups, dtype=dtype, rngs=rngs)] if add_attention else [])

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (B, H, W, D) to the same shape."""
        x = self.resnets[0](x)
        for attend in self.attentions:
            x = attend(x)
        return self.resnets[1](x)


class Downsample(nnx.Module):
    """Halves height and width by a convolution with stride 2."""

    def __init__(self, channels: int, *, dtype: DType, rngs: nnx.Rngs):
        # One row and column of zeros, below and on the right only: the padding that released weights were trained with.
        self.conv = nnx.Conv(channels, channels, (3, 3), strides=2, padding=((0, 1), (0, 1)), dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (B, H, W, D) to (B, H // 2, W // 2, D)."""
        return self.conv(x)


class Upsample(nnx.Module):
    """Doubles height and width by repeating pixels, then convolves."""

    def __init__(self, channels: int, *, dtype: DType, rngs: nnx.Rngs):
        self.conv = conv(channels, channels, 3, dtype, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (B, H, W, D) to (B, 2H, 2W, D)."""
        return self.conv(x.repeat(2, axis=1).repeat(2, axis=2))


class DownBlock(nnx.Module):
    """Residual blocks at one resolution of the encoder, then, except at the lowest, a step down."""

    def __init__(
        self, inputs: int, outputs: int, layers: int, groups: int, step: bool, *, dtype: DType, rngs: nnx.Rngs
    ):
        self.resnets = resnets(inputs, outputs, layers, groups, dtype, rngs)
        self.downsamplers = nnx.List([Downsample(outputs, dtype=dtype, rngs=rngs)] if step else [])

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (B, H, W, inputs) to (B, H or H // 2, W or W // 2, outputs)."""
        for layer in [*self.resnets, *self.downsamplers]:
            x = layer(x)
        return x


class UpBlock(nnx.Module):
    """Residual blocks at one resolution of the decoder, then, except at the highest, a step up."""

    def __init__(
        self, inputs: int, outputs: int, layers: int, groups: int, step: bool, *, dtype: DType, rngs: nnx.Rngs
    ):
        self.resnets = resnets(inputs, outputs, layers, groups, dtype, rngs)
        self.upsamplers = nnx.List([Upsample(outputs, dtype=dtype, rngs=rngs)] if step else [])

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (B, H, W, inputs) to (B, H or 2H, W or 2W, outputs)."""
        for layer in [*self.resnets, *self.upsamplers]:
            x = layer(x)
        return x


def resnets(inputs: int, outputs: int, layers: int, groups: int, dtype: DType, rngs: nnx.Rngs) -> nnx.List[ResnetBlock]:
    """Builds `layers` residual blocks, the first of which goes from `inputs` to `outputs` channels."""
    return nnx.List(
        [ResnetBlock(outputs if i else inputs, outputs, groups, dtype=dtype, rngs=rngs) for i in range(layers)]
    )
