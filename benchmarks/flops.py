"""Floating-point operations of the network, counted two ways: from its sizes, and by XLA from the traced program.

Both benchmarks print them beside their times; nothing is run here. One multiplication and one addition are two FLOPs.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from nami_jax.config import Config, ModelConfig, SampleConfig
from nami_jax.flow.stages import make_stages
from nami_jax.models.layers import TIME_CHANNELS
from nami_jax.models.nami import abstract_model
from nami_jax.sampler import guided_velocity, stage_shape

EVALUATIONS = {"euler": 1, "heun": 2}  # velocities of one solver step


def forward_flops(model: ModelConfig, stage: int, image_tokens: int, text_tokens: int) -> int:
    """Counts the matrix products of one image's forward pass; what is done element by element is left out.

    Args:
        model: the sizes.
        stage: k in 1..K; chooses how many single blocks run.
        image_tokens: L.
        text_tokens: T.
    """
    width, patch_channels = model.width, model.channels * model.patch_size**2
    tokens, blocks = image_tokens + text_tokens, model.double_blocks + model.stage_single_blocks[stage - 1]
    # Both kinds of block: 4 maps around the attention and 2 in the MLP for each token, then q·k and weights·v.
    block = tokens * (8 + 4 * model.mlp_ratio) * width**2 + 4 * tokens**2 * width
    vectors = 12 * model.double_blocks + 3 * model.stage_single_blocks[stage - 1] + 2
    embeddings = (
        image_tokens * patch_channels + text_tokens * model.text_dim + TIME_CHANNELS + model.pooled_dim + 2 * width
    )
    ends = 2 * width * (embeddings + image_tokens * patch_channels)
    return blocks * block + vectors * 2 * width**2 + ends


def image_tokens(model: ModelConfig, height: int, width: int) -> tuple[int, ...]:
    """Returns the number of image tokens of each stage, given the final latents' height and width."""
    shapes = [stage_shape(model, stage, height, width) for stage in make_stages(model.num_stages)]
    return tuple((h // model.patch_size) * (w // model.patch_size) for h, w, _ in shapes)


def sampling_flops(
    model: ModelConfig, sample: SampleConfig, side: int, text_tokens: int, batch: int = 1
) -> tuple[int, ...]:
    """Counts what each stage costs when `batch` images of side x side latents are sampled with guidance."""
    return tuple(
        2 * batch * steps * EVALUATIONS[sample.solver] * forward_flops(model, k, tokens, text_tokens)
        for k, (steps, tokens) in enumerate(zip(sample.steps, image_tokens(model, side, side), strict=True), start=1)
    )


def training_flops(cfg: Config, stage_batch: Sequence[int]) -> tuple[int, ...]:
    """Counts what each stage costs in one training step on `stage_batch` images of stage 1..K.

    The backward pass is counted as twice the forward pass; what rematerialisation computes again is not counted.
    """
    tokens = image_tokens(cfg.model, cfg.data.side, cfg.data.side)
    return tuple(
        3 * images * forward_flops(cfg.model, k, length, cfg.text.max_length)
        for k, (images, length) in enumerate(zip(stage_batch, tokens, strict=True), start=1)
    )


def xla_flops(function: Callable[..., Any], *args: Any) -> float:
    """Asks XLA for the FLOPs of `function` of `args` (arrays or ShapeDtypeStructs), without compiling or running it.

    Products and element-by-element arithmetic are both counted. The body of a `lax.scan` is counted once, whatever its
    length: give it the body, and multiply.
    """
    with jax.default_device(jax.local_devices(backend="cpu")[0]):  # not every platform's XLA counts
        cost = jax.jit(function).lower(*args).cost_analysis()
    assert cost is not None
    return cost["flops"]


def sampling_xla_flops(
    model: ModelConfig, sample: SampleConfig, side: int, text_tokens: int, batch: int = 1
) -> tuple[float, ...]:
    """Counts as `sampling_flops` does, by XLA: one guided velocity of each stage, times the solver's evaluations."""
    graphdef, params = abstract_model(dataclasses.replace(model, scan_blocks=False))
    text = struct(2 * batch, text_tokens, model.text_dim), struct(2 * batch, model.pooled_dim)
    counts = []
    for stage, steps in zip(make_stages(model.num_stages), sample.steps, strict=True):

        def velocity(params, x, t, text, stage=stage):
            return guided_velocity(nnx.merge(graphdef, params), text, sample.guidance_scale, stage)(x, t)

        x = struct(batch, *stage_shape(model, stage, side, side))
        counts.append(steps * EVALUATIONS[sample.solver] * xla_flops(velocity, params, x, struct(), text))
    return tuple(counts)


def struct(*shape: int) -> jax.ShapeDtypeStruct:
    """Returns a float32 array's shape, to trace with in its place."""
    return jax.ShapeDtypeStruct(shape, jnp.float32)
