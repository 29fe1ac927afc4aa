"""Configurations small enough for tests, by one function so that each test names only what it cares about."""

import dataclasses

from nami_jax.config import Config, DataConfig, FlowConfig, ModelConfig, SampleConfig, TextConfig, TrainConfig

MODEL = ModelConfig(
    channels=3, patch_size=2, num_heads=2, rope_axes=(4, 6, 6), double_blocks=1, stage_single_blocks=(1, 2, 3),
    mlp_ratio=2, text_dim=24, pooled_dim=12,
)  # fmt: skip

TRAIN = TrainConfig(
    seed=0, steps=12, stage_batches=((8, 8, 8),), phase_starts=(0.0,), phase_learning_rates=(1e-3,), warmup_steps=2,
    decay="cosine", weight_decay=0.01, adam_b1=0.9, adam_b2=0.99, grad_clip=1.0, ema_decay=0.9, caption_dropout=0.1,
    log_every=4, eval_every=6, eval_batch=8, checkpoint_every=5, keep_checkpoints=2, sample_every=6, sample_images=4,
)  # fmt: skip

CONFIG = Config(
    model=MODEL,
    flow=FlowConfig(),
    data=DataConfig("", "train", "held_out", "image", "captions", side=16),
    text=TextConfig(max_length=8),
    train=TRAIN,
    sample=SampleConfig(steps=(2, 2, 2)),
)


def make_config(**sections) -> Config:
    """Returns the small configuration with fields replaced: `make_config(train={"steps": 3})`."""
    replaced = {name: dataclasses.replace(getattr(CONFIG, name), **fields) for name, fields in sections.items()}
    return dataclasses.replace(CONFIG, **replaced)
