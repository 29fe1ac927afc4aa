"""The AutoencoderKL of latent diffusion, as diffusers defines it: images to the moments of latents, latents to images.

Sizes and names are those of diffusers' `AutoencoderKL`: the released NAMI has the one with 16 channels.
Source: Rombach et al., arXiv 2112.10752, sec. 3.1; Esser et al., arXiv 2012.09841, table 7.
"""

from typing import Annotated

import jax
import jax.numpy as jnp
import pydantic
from flax import nnx

from nami_jax.config import Settings, require
from nami_jax.config.settings import Positive, Width, settings
from nami_jax.models.autoencoder_blocks import DownBlock, DType, MidBlock, UpBlock, conv, group_norm

IMAGE_CHANNELS = 3
LOGVAR_RANGE = (-30.0, 20.0)  # so that exp(logvar) neither overflows nor vanishes
TAKE_CONFIG = "Use the autoencoder's own config.json"


@settings(remedy=TAKE_CONFIG)
class AutoencoderKLConfig(Settings):
    """Sizes of an AutoencoderKL, under the names and with the defaults of diffusers' config.json."""

    # Channels at each resolution, from the image's down.
    block_out_channels: Annotated[tuple[Width, ...], pydantic.Field(min_length=1, max_length=8)]
    latent_channels: Annotated[int, pydantic.Field(ge=1, le=4096)]  # C
    # Residual blocks at each resolution; the decoder has one more.
    layers_per_block: Annotated[int, pydantic.Field(ge=1, le=8)] = 1
    norm_num_groups: Width = 32
    # Latents are (mean - shift_factor) scaling_factor.
    scaling_factor: Annotated[float, pydantic.Field(ge=1e-6, le=1e6)] = 0.18215
    shift_factor: Annotated[float, pydantic.Field(ge=-1e6, le=1e6)] | None = None
    use_quant_conv: bool = True  # a 1x1 convolution after the encoder
    use_post_quant_conv: bool = True  # a 1x1 convolution before the decoder
    mid_block_add_attention: bool = True
    sample_size: Positive = 32  # height and width of the images it was trained on, pixels; diffusers' tiles have it

    def __post_init__(self) -> None:
        channels, groups = self.block_out_channels, self.norm_num_groups
        require(
            all(c % groups == 0 for c in channels),
            field="block_out_channels",
            value=channels,
            rule=f"needs multiples of norm_num_groups = {groups}",
            remedy=TAKE_CONFIG,
        )

    @property
    def downscale(self) -> int:
        """Pixels per latent, each way."""
        return 2 ** (len(self.block_out_channels) - 1)


class Encoder(nnx.Module):
    """Residual blocks at falling resolutions, then the middle block and a head."""

    def __init__(self, cfg: AutoencoderKLConfig, *, dtype: DType, rngs: nnx.Rngs):
        channels, groups, layers = cfg.block_out_channels, cfg.norm_num_groups, cfg.layers_per_block
        self.conv_in = conv(IMAGE_CHANNELS, channels[0], 3, dtype, rngs)
        self.down_blocks = nnx.List(
            [
                DownBlock(inputs, outputs, layers, groups, i + 1 < len(channels), dtype=dtype, rngs=rngs)
                for i, (inputs, outputs) in enumerate(zip((channels[0], *channels), channels, strict=False))
            ]
        )
        self.mid_block = MidBlock(channels[-1], groups, cfg.mid_block_add_attention, dtype=dtype, rngs=rngs)
        self.conv_norm_out = group_norm(channels[-1], groups, rngs)
        # In float32 whatever the compute type: it is cheap, and what leaves the network is not rounded to 8 bits.
        self.conv_out = conv(channels[-1], 2 * cfg.latent_channels, 3, jnp.float32, rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Maps (B, H, W, 3) to (B, h, w, 2C) float32."""
        x = self.conv_in(images)
        for block in self.down_blocks:
            x = block(x)
        return self.conv_out(nnx.silu(self.conv_norm_out(self.mid_block(x))))


class Decoder(nnx.Module):
    """The middle block, residual blocks at rising resolutions, then a head."""

    def __init__(self, cfg: AutoencoderKLConfig, *, dtype: DType, rngs: nnx.Rngs):
        channels, groups, layers = cfg.block_out_channels[::-1], cfg.norm_num_groups, cfg.layers_per_block + 1
        self.conv_in = conv(cfg.latent_channels, channels[0], 3, dtype, rngs)
        self.mid_block = MidBlock(channels[0], groups, cfg.mid_block_add_attention, dtype=dtype, rngs=rngs)
        self.up_blocks = nnx.List(
            [
                UpBlock(inputs, outputs, layers, groups, i + 1 < len(channels), dtype=dtype, rngs=rngs)
                for i, (inputs, outputs) in enumerate(zip((channels[0], *channels), channels, strict=False))
            ]
        )
        self.conv_norm_out = group_norm(channels[-1], groups, rngs)
        self.conv_out = conv(channels[-1], IMAGE_CHANNELS, 3, jnp.float32, rngs)  # float32 as in the encoder

    def __call__(self, latents: jax.Array) -> jax.Array:
        """Maps (B, h, w, C) to (B, H, W, 3) float32."""
        x = self.mid_block(self.conv_in(latents))
        for block in self.up_blocks:
            x = block(x)
        return self.conv_out(nnx.silu(self.conv_norm_out(x)))


class AutoencoderKL(nnx.Module):
    """Encoder and decoder. Latents here are unscaled: `scaling_factor` and `shift_factor` are applied outside."""

    def __init__(self, cfg: AutoencoderKLConfig, *, dtype: DType = jnp.float32, rngs: nnx.Rngs):
        """Builds it with random parameters in float32; convolutions and attention compute in `dtype`."""
        self.cfg = cfg
        moments, latents = 2 * cfg.latent_channels, cfg.latent_channels
        self.encoder = Encoder(cfg, dtype=dtype, rngs=rngs)
        self.decoder = Decoder(cfg, dtype=dtype, rngs=rngs)
        self.quant_conv = conv(moments, moments, 1, jnp.float32, rngs) if cfg.use_quant_conv else None
        self.post_quant_conv = conv(latents, latents, 1, jnp.float32, rngs) if cfg.use_post_quant_conv else None

    def encode(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns the Gaussian posterior of the latents.

        Args:
            images: (B, H, W, 3) in [-1, 1]. What a side exceeds a multiple of `downscale` by is dropped.

        Returns:
            Mean and logarithm of the variance, (B, h, w, C) float32 each; the latter is clipped to [-30, 20].
        """
        moments = self.encoder(images)  # (B, h, w, 2C)
        if self.quant_conv is not None:
            moments = self.quant_conv(moments)
        mean, logvar = jnp.split(moments, 2, axis=-1)
        return mean, jnp.clip(logvar, *LOGVAR_RANGE)

    def decode(self, latents: jax.Array) -> jax.Array:
        """Maps latents (B, h, w, C) to images (B, H, W, 3) float32, about in [-1, 1] and not clipped."""
        return self.decoder(latents if self.post_quant_conv is None else self.post_quant_conv(latents))
