"""Floating-point operations of the network, counted from its sizes, for plans, metrics and benchmarks.

One multiplication and one addition are two FLOPs. What is done element by element is left out.
"""

import functools
from collections.abc import Sequence

from nami_jax.config import Config, ModelConfig, SampleConfig
from nami_jax.flow.schedule import make_schedules
from nami_jax.flow.solver import SOLVERS
from nami_jax.flow.stages import Stage, make_stages
from nami_jax.models.layers import TIME_CHANNELS


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
    # Both kinds of block: 4 maps around the attention and 2 in the MLP for each token.
    block = tokens * (8 + 4 * model.mlp_ratio) * width**2
    vectors = 12 * model.double_blocks + 3 * model.stage_single_blocks[stage - 1] + 2
    embeddings = (
        image_tokens * patch_channels + text_tokens * model.text_dim + TIME_CHANNELS + model.pooled_dim + 2 * width
    )
    ends = 2 * width * (embeddings + image_tokens * patch_channels)
    return blocks * block + vectors * 2 * width**2 + ends + attention_flops(model, stage, tokens)


def attention_flops(model: ModelConfig, stage: int, tokens: int) -> int:
    """Counts the products q·k and weights·v of one image's forward pass over `tokens` image and text tokens."""
    return (model.double_blocks + model.stage_single_blocks[stage - 1]) * 4 * tokens**2 * model.width


def sampling_flops(
    model: ModelConfig,
    sample: SampleConfig,
    side: int,
    text_tokens: int,
    batch: int = 1,
    sigma_ends: Sequence[float] | None = None,
) -> tuple[int, ...]:
    """Counts what each stage costs when `batch` images of side x side latents are sampled.

    A guided step passes twice as many images. What is computed once for all steps of a stage is counted in each.
    `sigma_ends` are the stages', as for `make_stages`.
    """
    stages = make_stages(model.num_stages, sigma_ends)
    return tuple(
        batch * passes * forward_flops(model, k, tokens, text_tokens)
        for k, (passes, tokens) in enumerate(
            zip(image_passes(stages, sample), model.image_tokens(side, side), strict=True), start=1
        )
    )


def image_passes(stages: Sequence[Stage], sample: SampleConfig) -> tuple[int, ...]:
    """Counts how often each stage passes one picture through the network: twice for a guided velocity."""
    return tuple(
        len(SOLVERS[sample.solver].asks) * sum(1 + guided for guided in schedule.guided)
        for schedule in make_schedules(stages, sample)
    )


def training_flops(cfg: Config, stage_batch: Sequence[int], size: tuple[int, int] | None = None) -> tuple[int, ...]:
    """Counts what each stage costs in one training step on `stage_batch` images of stage 1..K.

    The backward pass is counted as twice the forward pass: for the gradients of both factors of each product. With LoRA
    the weights are frozen and have none; its own products are left out. What rematerialisation computes again is not
    counted.

    Args:
        cfg: the run.
        stage_batch: images of stage 1..K.
        size: height and width of the last stage's images, pixels; None: data.side both ways.
    """
    height, width = (side // cfg.autoencoder.downscale for side in size or (cfg.data.side, cfg.data.side))
    tokens = cfg.model.image_tokens(height, width)
    return tuple(
        images * _training_flops(cfg.model, k, length, cfg.text.max_length)
        for k, (images, length) in enumerate(zip(stage_batch, tokens, strict=True), start=1)
    )


def _training_flops(model: ModelConfig, stage: int, image_tokens: int, text_tokens: int) -> int:
    forward = forward_flops(model, stage, image_tokens, text_tokens)
    if model.lora_rank is None:
        return 3 * forward
    return 2 * forward + attention_flops(model, stage, image_tokens + text_tokens)


@functools.cache
def step_flops(cfg: Config, shapes: tuple[tuple[int, ...], ...]) -> int:
    """Counts one training step on images of `shapes`, (B_k, H_k, W_k, C) of stage 1..K, latents or pixels."""
    height, width = (side * cfg.autoencoder.downscale for side in shapes[-1][1:3])
    return sum(training_flops(cfg, [shape[0] for shape in shapes], (height, width)))
