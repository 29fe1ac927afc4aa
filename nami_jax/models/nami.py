"""The nested DiT of NAMI: one transformer of which each stage runs a prefix.

Every stage runs all double blocks and then its own number of single blocks; embeddings and output head are shared. No
stage embedding is needed: the time windows and the number of tokens tell the stages apart.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from nami_jax.config import ModelConfig
from nami_jax.models.blocks import (
    BlockInputs,
    DoubleBlock,
    SingleBlock,
    modulate_prefix,
    run_prefix,
    stack,
    take_apart,
)
from nami_jax.models.layers import TIME_CHANNELS, Embedder, Modulation, linear, modulate, time_waves
from nami_jax.models.layout import ONE_DEVICE, Layout
from nami_jax.models.rope import rotations


class Conditions(NamedTuple):
    """What time and pooled text make of the network: the modulation of all blocks that a stage runs, and of the end."""

    double: tuple[jax.Array, ...]  # of text and of image: (blocks, B, 6 D); () without such blocks
    single: jax.Array | None  # (blocks, B, 3 D)
    last: jax.Array  # (B, 2 D)


class BlockParams(NamedTuple):
    """The parameters of all blocks that a stage runs, each block's in arrays of its own."""

    double: list[nnx.State]
    single: list[nnx.State]


class Nami(nnx.Module):
    """Predicts the velocity of the flow at one stage's resolution.

    Source: NAMI, arXiv 2503.09242, sec. 3.2; blocks as in FLUX. Sizes: see `ModelConfig`.
    """

    def __init__(self, cfg: ModelConfig, *, rngs: nnx.Rngs):
        patch_channels = cfg.channels * cfg.patch_size**2
        self.cfg = cfg
        self.image_in = linear(cfg, patch_channels, cfg.width, rngs)
        self.text_in = linear(cfg, cfg.text_dim, cfg.width, rngs)
        self.time_in = Embedder(cfg, TIME_CHANNELS, rngs=rngs)
        self.pooled_in = Embedder(cfg, cfg.pooled_dim, rngs=rngs)
        self.double_blocks = stack(DoubleBlock, cfg.double_blocks, cfg, rngs)
        self.single_blocks = stack(SingleBlock, cfg.stage_single_blocks[-1], cfg, rngs)
        self.modulation = Modulation(cfg, 2, rngs=rngs)
        # Zero at the start: the first prediction is 0, whose error is the velocity's own variance.
        self.image_out = linear(cfg, cfg.width, patch_channels, rngs, zero=True)

    def __call__(
        self,
        latents: jax.Array,
        t: jax.Array,
        text_embeds: jax.Array,
        pooled: jax.Array,
        *,
        stage: int,
        layout: Layout = ONE_DEVICE,
        params: BlockParams | None = None,
    ) -> jax.Array:
        """Predicts the velocity x_start - x_end.

        Args:
            latents: (B, H, W, C) noisy latents or pixels at the stage's size, both sides multiples of the patch size.
            t: (B,) global time in [0, 1], 1 = noise.
            text_embeds: (B, T, text_dim) token states.
            pooled: (B, pooled_dim).
            stage: k in 1..K; chooses how many single blocks run.
            layout: how the pass is spread over devices.
            params: what `take_apart` made of the stage's blocks before, if anything.

        Returns:
            (B, H, W, C) float32.
        """
        conditions = self.conditions(t, self.pooled_in(pooled), stage=stage, layout=layout)
        text = self.text_in(text_embeds)
        return self.velocity(latents, text, conditions, stage=stage, layout=layout, params=params)

    def conditions(self, t: jax.Array, pooled: jax.Array, *, stage: int, layout: Layout = ONE_DEVICE) -> Conditions:
        """Computes all that depends on the time and the pooled text but not on the latents.

        Args:
            t: (B,) global time in [0, 1], 1 = noise; (1,) for one that all images share.
            pooled: (B, D), by `pooled_in`.
            stage: k in 1..K; chooses how many single blocks run.
            layout: how the pass is spread over devices.

        Returns:
            What `velocity` takes, in the compute type.
        """
        cfg, singles = self.cfg, self.cfg.stage_single_blocks[stage - 1]
        conditioning = self.time_in(time_waves(t)) + pooled  # (B, D)

        def modulation(of: Any, count: int) -> jax.Array:
            return modulate_prefix(of.modulation, count, cfg, conditioning, layout)

        blocks: Any = self.double_blocks
        streams = () if blocks is None else (blocks.text, blocks.image)
        return Conditions(
            tuple(modulation(stream, cfg.double_blocks) for stream in streams),
            modulation(self.single_blocks, singles) if singles else None,
            self.modulation(conditioning),
        )

    def take_apart(self, stage: int) -> BlockParams:
        """Takes the blocks that a stage k in 1..K runs apart, for many passes by `velocity`."""
        cfg = self.cfg
        return BlockParams(
            take_apart(self.double_blocks, cfg.double_blocks),
            take_apart(self.single_blocks, cfg.stage_single_blocks[stage - 1]),
        )

    def velocity(
        self,
        latents: jax.Array,
        text: jax.Array,
        conditions: Conditions,
        *,
        stage: int,
        layout: Layout = ONE_DEVICE,
        params: BlockParams | None = None,
    ) -> jax.Array:
        """Predicts the velocity x_start - x_end.

        Args:
            latents: (B, H, W, C), as for a call.
            text: (B, T, D) projected token states, by `text_in`.
            conditions: of the time and the pooled text.
            stage: k in 1..K; chooses how many single blocks run.
            layout: how the pass is spread over devices.
            params: what `take_apart` made of the stage's blocks before, if anything.

        Returns:
            (B, H, W, C) float32.
        """
        cfg, p = self.cfg, self.cfg.patch_size
        height, width = latents.shape[1] // p, latents.shape[2] // p
        tokens = rearrange(latents, "b (h p) (w q) c -> b (h w) (c p q)", p=p, q=p)
        shared = BlockInputs(rotations(text.shape[1], height, width, cfg.rope_axes, cfg.rope_theta), layout)

        image = layout.tokens(self.image_in(tokens))  # (B, L, D)
        double, single = params or (None, None)
        text, image = run_prefix(
            self.double_blocks, cfg.double_blocks, cfg, (text, image), conditions.double, shared, double
        )
        x = layout.tokens(jnp.concatenate([text, image], axis=1))  # (B, T + L, D)
        x = run_prefix(
            self.single_blocks, cfg.stage_single_blocks[stage - 1], cfg, x, conditions.single, shared, single
        )

        scale, shift = self.modulation.vectors(conditions.last)
        tokens = self.image_out(modulate(layout.tokens(x[:, text.shape[1] :]), shift, scale))
        return rearrange(tokens.astype(jnp.float32), "b (h w) (c p q) -> b (h p) (w q) c", h=height, w=width, p=p, q=p)


def abstract_model(cfg: ModelConfig) -> tuple[nnx.GraphDef, Any]:
    """Returns the network's structure and its parameters' shapes: `nnx.merge(structure, params)` is the model."""
    graphdef, state = nnx.split(nnx.eval_shape(lambda: Nami(cfg, rngs=nnx.Rngs(0))))
    return graphdef, nnx.to_pure_dict(state)
