"""The two kinds of transformer block, as in FLUX and SD3, and stacks of them of which a prefix can be run.

A double block keeps image and text in two streams that meet in one attention; a single block runs both as one
sequence, with attention and MLP side by side.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx

from nami_jax.config import ModelConfig
from nami_jax.models.attention import ATTENTION
from nami_jax.models.layers import Modulation, adaptable, apply_to_parts, modulate
from nami_jax.models.layout import ONE_DEVICE, Layout
from nami_jax.models.rope import rotate

# Kernels whose result comes with the logarithms of the softmax's sums, which their gradients need: it is kept there.
KERNELS = ("pallas_call", "dot_product_attention_fwd_wrapper")
# The blocks' parameters that depend on time and pooled text alone, and are done with before the blocks run.
MODULATION = nnx.PathContains("modulation")


class QKV(nnx.Module):
    """Queries, keys and values of one stream; queries and keys RMS-normed for each head."""

    def __init__(self, cfg: ModelConfig, *, rngs: nnx.Rngs):
        dtype = jnp.dtype(cfg.dtype)
        self.linear = nnx.LinearGeneral(cfg.width, (3, cfg.num_heads, cfg.head_dim), dtype=dtype, rngs=rngs)
        outputs = 3 * cfg.width
        rank = cfg.lora_rank
        self.lora = nnx.LoRA(cfg.width, rank, outputs, dtype=dtype, rngs=rngs) if rank else None
        self.q_norm = nnx.RMSNorm(cfg.head_dim, epsilon=1e-6, dtype=jnp.float32, rngs=rngs)
        self.k_norm = nnx.RMSNorm(cfg.head_dim, epsilon=1e-6, dtype=jnp.float32, rngs=rngs)

    def __call__(self, x: jax.Array, platform: str) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Maps (B, L, D) to three arrays (B, L, N, H); `platform` is what it is computed on."""
        assert self.linear.bias is not None
        dtype = self.linear.dtype
        x, kernel, bias = (array.astype(dtype) for array in (x, self.linear.kernel[...], self.linear.bias[...]))
        if platform == "gpu":
            product = jnp.einsum("bld,dinh->blinh", x, kernel)
            parts = [product[:, :, i] for i in range(3)]
        else:  # of one product TPUs would copy every part to another layout, and CPUs train more slowly
            parts = [jnp.einsum("bld,dnh->blnh", x, kernel[:, i]) for i in range(3)]
        parts = [part + bias[None, None, i] for i, part in enumerate(parts)]
        if self.lora:
            pairs = rearrange(self.lora(x), "b l (i n h) -> i b l n h", i=3, n=parts[0].shape[2])
            parts = [part + pair for part, pair in zip(parts, pairs, strict=True)]
        q, k, v = parts
        return self.q_norm(q).astype(v.dtype), self.k_norm(k).astype(v.dtype), v


class BlockInputs(NamedTuple):
    """What all blocks of a forward pass share."""

    rotation: tuple[np.ndarray, np.ndarray]  # RoPE cosines and sines of the sequence
    layout: Layout


def attend(q: jax.Array, k: jax.Array, v: jax.Array, shared: BlockInputs) -> jax.Array:
    """Attends every token to every token: three arrays (B, L, N, H) -> (B, L, D)."""
    out = shared.layout.attention(rotate(q, shared.rotation), rotate(k, shared.rotation), v)
    return out.reshape(*out.shape[:2], -1)


class Stream(nnx.Module):
    """One of a double block's two streams: everything but the attention they share."""

    def __init__(self, cfg: ModelConfig, *, rngs: nnx.Rngs):
        self.modulation = Modulation(cfg, 6, rngs=rngs)
        self.qkv = QKV(cfg, rngs=rngs)
        self.proj = adaptable(cfg, cfg.width, cfg.width, rngs)
        self.mlp_in = adaptable(cfg, cfg.width, cfg.mlp_ratio * cfg.width, rngs)
        self.mlp_out = adaptable(cfg, cfg.mlp_ratio * cfg.width, cfg.width, rngs)

    def finish(self, x: jax.Array, attended: jax.Array, modulation: list[jax.Array], layout: Layout) -> jax.Array:
        """Adds to x (B, L, D) the gated attention result and then the gated MLP."""
        gate, mlp_shift, mlp_scale, mlp_gate = modulation
        x = x + (gate * self.proj(attended)).astype(x.dtype)
        hidden = layout.channels(nnx.gelu(self.mlp_in(modulate(x, mlp_shift, mlp_scale)), approximate=True))
        return x + (mlp_gate * self.mlp_out(hidden)).astype(x.dtype)


class DoubleBlock(nnx.Module):
    """Two streams with joint attention (MM-DiT, SD3, arXiv 2403.03206)."""

    def __init__(self, cfg: ModelConfig, *, rngs: nnx.Rngs):
        self.image = Stream(cfg, rngs=rngs)
        self.text = Stream(cfg, rngs=rngs)

    def __call__(
        self, streams: tuple[jax.Array, jax.Array], modulation: tuple[jax.Array, jax.Array], shared: BlockInputs
    ) -> tuple[jax.Array, jax.Array]:
        """Maps (text (B, T, D), image (B, L, D)) to the same, given the modulation of both, (B, 6 D) each."""
        (text, image), (text_modulation, image_modulation) = streams, modulation
        text_shift, text_scale, *text_rest = self.text.modulation.vectors(text_modulation)
        image_shift, image_scale, *image_rest = self.image.modulation.vectors(image_modulation)
        text_qkv = self.text.qkv(modulate(text, text_shift, text_scale), shared.layout.platform)
        image_qkv = self.image.qkv(modulate(image, image_shift, image_scale), shared.layout.platform)
        q, k, v = (jnp.concatenate(pair, axis=1) for pair in zip(text_qkv, image_qkv, strict=True))
        attended = attend(q, k, v, shared)  # (B, T + L, D)
        text_attended, image_attended = jnp.split(attended, [text.shape[1]], axis=1)
        text = self.text.finish(text, text_attended, text_rest, ONE_DEVICE)  # short: not worth splitting
        image = self.image.finish(image, image_attended, image_rest, shared.layout)
        return shared.layout.latents(text), shared.layout.tokens(image)


class SingleBlock(nnx.Module):
    """One stream, attention and MLP in parallel (ViT-22B, arXiv 2302.05442, as used in FLUX)."""

    def __init__(self, cfg: ModelConfig, *, rngs: nnx.Rngs):
        hidden = cfg.mlp_ratio * cfg.width
        self.modulation = Modulation(cfg, 3, rngs=rngs)
        self.qkv = QKV(cfg, rngs=rngs)
        self.mlp_in = adaptable(cfg, cfg.width, hidden, rngs)
        self.proj = adaptable(cfg, cfg.width + hidden, cfg.width, rngs)

    def __call__(self, x: jax.Array, modulation: jax.Array, shared: BlockInputs) -> jax.Array:
        """Maps tokens (B, T + L, D) to the same, given their modulation (B, 3 D)."""
        shift, scale, gate = self.modulation.vectors(modulation)
        inputs = modulate(x, shift, scale)
        attended = attend(*self.qkv(inputs, shared.layout.platform), shared)
        hidden = shared.layout.channels(nnx.gelu(self.mlp_in(inputs), approximate=True))
        projected = apply_to_parts(self.proj, (attended, hidden), join=not shared.layout.adds_products)
        return shared.layout.tokens(x + (gate * projected).astype(x.dtype))


def stack(block: Callable[..., nnx.Module], count: int, cfg: ModelConfig, rngs: nnx.Rngs) -> nnx.Module | None:
    """Builds `count` blocks as one module whose parameters have a leading axis of that size; None for no blocks."""
    if count == 0:
        return None
    build = nnx.vmap(lambda keys: block(cfg, rngs=keys), in_axes=0, out_axes=0)
    return nnx.split_rngs(splits=count)(build)(rngs)


def _is_attention(primitive: Any, *_: Any, **params: Any) -> bool:
    """Says whether something computed is attention's result, or what its kernel leaves for the backward pass."""
    return primitive.name in KERNELS or (primitive.name == "name" and params["name"] == ATTENTION)


# What the backward pass finds of a block, by `model.remat`; it computes the rest again.
KEPT = {
    "full": None,
    "keep_attention": _is_attention,
    "keep_matmuls": jax.checkpoint_policies.save_from_both_policies(
        _is_attention, jax.checkpoint_policies.dots_with_no_batch_dims_saveable
    ),
}


def modulate_prefix(
    modulation: Modulation, count: int, cfg: ModelConfig, conditioning: jax.Array, layout: Layout
) -> jax.Array:
    """Computes the modulation of the first `count` blocks of a stack: it depends on time and pooled text alone.

    Args:
        modulation: the stack's, whose parameters have a leading axis.
        count: of how many blocks.
        cfg: its `scan_blocks` chooses how, as in `run_prefix`, where one block's comes after another's.
        conditioning: (B, D).
        layout: a GPU that is alone computes all of them by one product. Devices that share the parameters need gather
            no more than one block's at a time; CPUs gain nothing by it.

    Returns:
        (count, B, vectors D).
    """
    graphdef, params = nnx.split(modulation)

    def one(block_params, conditioning):
        return nnx.merge(graphdef, block_params)(conditioning)  # pyright: ignore[reportCallIssue]

    prefix = jax.tree.map(lambda p: p[:count], params)
    if layout.alone and layout.platform == "gpu":
        # Of a vector that all blocks share XLA would make a product with all kernels side by side, which it transposes.
        return jax.vmap(one)(prefix, jnp.broadcast_to(conditioning, (count, *conditioning.shape)))
    if cfg.scan_blocks:
        return jax.lax.map(lambda block_params: one(block_params, conditioning), prefix)
    return jnp.stack([one(jax.tree.map(lambda p, i=i: p[i], params), conditioning) for i in range(count)])


def take_apart(blocks: nnx.Module | None, count: int) -> list[nnx.State]:
    """Takes the first `count` blocks of a stack apart.

    XLA copies a slice of a stack wherever it is used, so a program that passes through the blocks in a loop takes them
    apart before it.

    Returns:
        What each block runs with, in arrays of its own.
    """
    if blocks is None:
        return []
    # Sliced here, the modulation's parameters would each get a gradient of zeros.
    _, _, params = nnx.split(blocks, MODULATION, ...)
    return [jax.tree.map(lambda p, i=i: p[i], params) for i in range(count)]


def run_prefix(
    blocks: nnx.Module | None,
    count: int,
    cfg: ModelConfig,
    x: Any,
    modulation: Any,
    shared: BlockInputs,
    apart: list[nnx.State] | None = None,
) -> Any:
    """Runs the first `count` blocks of a stack.

    Args:
        blocks: a stack made by `stack`.
        count: how many of them to run.
        cfg: its `scan_blocks` and `remat` choose how. Scanned blocks compile once; unrolled ones are faster.
        x: what goes through the blocks, an array or a pair.
        modulation: of the blocks, (count, B, vectors D), an array or a pair.
        shared: what the blocks share.
        apart: what `take_apart` made of them before, if anything: such blocks are not scanned.

    Returns:
        x after `count` blocks.
    """
    if blocks is None or count == 0:
        return x
    graphdef, done, params = nnx.split(blocks, MODULATION, ...)

    def run(x, block):
        block_params, block_modulation = block
        return nnx.merge(graphdef, done, block_params)(x, block_modulation, shared), None  # pyright: ignore[reportCallIssue]

    scan = cfg.scan_blocks and apart is None
    # Inside a scan nothing can merge the recomputation with the first pass, so it needs no guard against that.
    if cfg.remat != "none":
        run = jax.checkpoint(run, prevent_cse=not scan, policy=KEPT[cfg.remat])
    if scan:
        return jax.lax.scan(run, x, (jax.tree.map(lambda p: p[:count], params), modulation))[0]
    for i, params in enumerate(take_apart(blocks, count) if apart is None else apart):
        x, _ = run(x, (params, jax.tree.map(lambda m, i=i: m[i], modulation)))
    return x
