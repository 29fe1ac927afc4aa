"""A pipeline around a small network with random weights, and states of prompts for it: no training, no text encoder."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from nami_jax import NamiPipeline
from nami_jax.config import PipelineConfig
from nami_jax.sampling.parts import Parts
from nami_jax.text.encoders import TextEncoder
from tests.models.test_nami import awake
from tests.support.sizes import CONFIG, MODEL


class EncoderAskedError(Exception):
    """The text encoder was loaded."""


def no_encoder() -> TextEncoder:
    raise EncoderAskedError


def small_pipeline(seed: int = 0, dtype: str = "float32", **changes) -> NamiPipeline:
    """Returns a pipeline for pictures of 16 x 16 in three stages of two steps."""
    sizes = dataclasses.replace(CONFIG.pipeline.model, double_blocks=0, stage_single_blocks=(1, 1, 1), dtype=dtype)
    cfg: PipelineConfig = dataclasses.replace(CONFIG.pipeline, **{"model": sizes} | changes)
    return NamiPipeline(Parts(awake(cfg.model, seed), cfg, None, "a small network"), no_encoder)


def states(count: int = 1, seed: int = 0, tokens: int = 5) -> dict[str, Any]:
    """Returns states of prompts, and of one negative prompt, as a call takes them."""
    rng = np.random.default_rng(seed)
    embeds, pooled = (
        rng.standard_normal(shape, np.float32)
        for shape in ((count + 1, tokens, MODEL.text_dim), (count + 1, MODEL.pooled_dim))
    )
    return {
        "prompt_embeds": embeds[:count], "pooled_prompt_embeds": pooled[:count],
        "negative_prompt_embeds": embeds[count:], "negative_pooled_prompt_embeds": pooled[count:],
    }  # fmt: skip


def small_model(folder: Path) -> Path:
    """Writes such a pipeline, for the states of MiniLM, to a folder that `from_pretrained` and commands read."""
    sizes = dataclasses.replace(small_pipeline().cfg.model, text_dim=384, pooled_dim=384)
    small_pipeline(model=sizes).save_pretrained(folder)
    return folder
