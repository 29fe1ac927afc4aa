"""CLIP: images and texts to vectors of one space, where those that belong together point the same way. Frozen.

Radford et al., arXiv 2103.00020. Sizes and weights are those of a `CLIPModel` in the Hugging Face layout.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from nami_jax.config import Settings, require
from nami_jax.config.settings import Entries, Epsilon, Layers, Side, Width, settings
from nami_jax.models.layers import affine_norm
from nami_jax.models.vision_transformer import (
    Activation,
    PatchEmbedding,
    PreNormLayer,
    exact_gelu,
    normalise,
    with_first,
)

TAKE_CONFIG = "Use the checkpoint's own config.json"
MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # of its training images


def quick_gelu(x: jax.Array) -> jax.Array:
    """Returns x sigmoid(1.702 x), which OpenAI's CLIPs were trained with."""
    return x * jax.nn.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Activation] = {"quick_gelu": quick_gelu, "gelu": exact_gelu}


@settings(remedy=TAKE_CONFIG)
class ClipTextConfig(Settings):
    """Sizes of the text tower, under the names of the released config.json."""

    vocab_size: Entries = 49408
    hidden_size: Width = 512
    intermediate_size: Width = 2048
    num_hidden_layers: Layers = 12
    num_attention_heads: Width = 8
    max_position_embeddings: Entries = 77
    hidden_act: Literal["quick_gelu", "gelu"] = "quick_gelu"
    layer_norm_eps: Epsilon = 1e-5

    def __post_init__(self) -> None:
        require_multiple(self, "hidden_size", "num_attention_heads")


@settings(remedy=TAKE_CONFIG)
class ClipVisionConfig(Settings):
    """Sizes of the image tower, under the names of the released config.json."""

    hidden_size: Width = 768
    intermediate_size: Width = 3072
    num_hidden_layers: Layers = 12
    num_attention_heads: Width = 12
    image_size: Side = 224  # pixels
    patch_size: Width = 32  # pixels
    hidden_act: Literal["quick_gelu", "gelu"] = "quick_gelu"
    layer_norm_eps: Epsilon = 1e-5

    def __post_init__(self) -> None:
        require_multiple(self, "hidden_size", "num_attention_heads")
        require(
            self.image_size >= self.patch_size,
            field="image_size",
            value=self.image_size,
            rule=f"must be at least patch_size = {self.patch_size}",
            remedy=f"{TAKE_CONFIG} for both",
        )


@settings(remedy=TAKE_CONFIG)
class ClipConfig(Settings):
    """Sizes of both towers and of the space that they share."""

    text_config: ClipTextConfig
    vision_config: ClipVisionConfig
    projection_dim: Width = 512  # P


def require_multiple(cfg: ClipTextConfig | ClipVisionConfig, name: str, factor: str) -> None:
    """Raises `ConfigError` unless one size is a multiple of another."""
    require(
        getattr(cfg, name) % getattr(cfg, factor) == 0,
        field=name,
        value=getattr(cfg, name),
        rule=f"must be a multiple of {factor} = {getattr(cfg, factor)}",
        remedy=f"{TAKE_CONFIG} for both",
    )


class ClipVision(nnx.Module):
    """The image tower: patches, a class token and positions between two norms and through layers."""

    def __init__(self, cfg: ClipVisionConfig, *, rngs: nnx.Rngs):
        self.patches = PatchEmbedding(cfg.patch_size, cfg.hidden_size, False, rngs=rngs)
        self.class_embedding = nnx.Param(jnp.zeros(cfg.hidden_size))
        self.positions = nnx.Embed((cfg.image_size // cfg.patch_size) ** 2 + 1, cfg.hidden_size, rngs=rngs)
        self.first_norm = affine_norm(cfg.hidden_size, cfg.layer_norm_eps, rngs)
        self.layers = tower(cfg, rngs)
        self.post_norm = affine_norm(cfg.hidden_size, cfg.layer_norm_eps, rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Maps images (B, S, S, 3), levels 0..255, S the tower's own side, to (B, D) float32."""
        tokens = self.patches(normalise(images, MEAN, DEVIATION))
        states = with_first(self.class_embedding[...], tokens) + self.positions.embedding[...][None]
        states = self.first_norm(states)
        for layer in self.layers:
            states = layer(states)
        return self.post_norm(states[:, 0])


class ClipText(nnx.Module):
    """The text tower: words and positions through layers in which a token sees those before it."""

    def __init__(self, cfg: ClipTextConfig, *, rngs: nnx.Rngs):
        self.word_embedding = nnx.Embed(cfg.vocab_size, cfg.hidden_size, rngs=rngs)
        self.positions = nnx.Embed(cfg.max_position_embeddings, cfg.hidden_size, rngs=rngs)
        self.layers = tower(cfg, rngs)
        self.final_norm = affine_norm(cfg.hidden_size, cfg.layer_norm_eps, rngs)

    def __call__(self, token_ids: jax.Array, mask: jax.Array) -> jax.Array:
        """Maps texts of up to `max_position_embeddings` tokens to the state of their last one.

        Args:
            token_ids: (B, T) int32.
            mask: (B, T), 1 at real tokens, of which the last ends the text. Padding comes after it and is not seen.

        Returns:
            (B, D) float32.
        """
        length = token_ids.shape[1]
        states = self.word_embedding(token_ids) + self.positions.embedding[...][None, :length]
        before = jnp.tril(jnp.ones((length, length), bool))[None, None]
        for layer in self.layers:
            states = layer(states, before)
        last = mask.sum(axis=1) - 1
        return self.final_norm(jnp.take_along_axis(states, last[:, None, None], axis=1)[:, 0])


class Clip(nnx.Module):
    """Both towers, and a linear map of each into the space that they share."""

    def __init__(self, cfg: ClipConfig, *, dtype: jax.typing.DTypeLike = jnp.float32, rngs: nnx.Rngs):
        self.cfg = cfg
        self.text_tower = ClipText(cfg.text_config, rngs=rngs)
        self.vision_tower = ClipVision(cfg.vision_config, rngs=rngs)
        widths = cfg.text_config.hidden_size, cfg.vision_config.hidden_size
        self.text_projection = nnx.Linear(widths[0], cfg.projection_dim, use_bias=False, rngs=rngs)
        self.visual_projection = nnx.Linear(widths[1], cfg.projection_dim, use_bias=False, rngs=rngs)

    def images(self, images: jax.Array) -> jax.Array:
        """Maps images (B, S, S, 3), levels 0..255, to vectors (B, P) float32, not scaled to length 1."""
        return self.visual_projection(self.vision_tower(images))

    def texts(self, token_ids: jax.Array, mask: jax.Array) -> jax.Array:
        """Maps tokens and their mask (B, T) to vectors (B, P) float32, not scaled to length 1."""
        return self.text_projection(self.text_tower(token_ids, mask))


def tower(cfg: ClipTextConfig | ClipVisionConfig, rngs: nnx.Rngs) -> nnx.List:
    """Makes a tower's layers."""
    sizes = cfg.hidden_size, cfg.intermediate_size, cfg.num_attention_heads, cfg.layer_norm_eps
    activation = ACTIVATIONS[cfg.hidden_act]
    return nnx.List([PreNormLayer(*sizes, activation, False, rngs=rngs) for _ in range(cfg.num_hidden_layers)])
