"""A small training of an autoencoder, of which each test names only what it cares about."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nami_jax.config import DataConfig
from nami_jax.config.autoencoder_run import AutoencoderRun, AutoencoderTrainConfig, LossConfig, SizesConfig
from nami_jax.training.autoencoder.autoencoder_task import AutoencoderTask
from nami_jax.training.loop import run
from nami_jax.training.state import TrainState

RUN = AutoencoderRun(
    model=SizesConfig((4, 8), latent_channels=2, layers_per_block=1, norm_num_groups=4, mid_attention=False),
    data=DataConfig(
        "plain_cards", "train[:80%]", "train[80%:]", "picture", "colour", side=16, cache_images=20, flip=True
    ),
    loss=LossConfig(pixel=1.0, perceptual=0.1, perceptual_blocks=1, kl=1e-3),
    train=AutoencoderTrainConfig(
        seed=0, steps=12, batch=8, crop=8, learning_rate=2e-3, warmup_steps=2, adam_b1=0.9, adam_b2=0.99,
        grad_clip=1.0, ema_decay=0.9, log_every=4, eval_every=6, checkpoint_every=5, keep_checkpoints=2,
        sample_every=6, sample_images=4,
    ),
)  # fmt: skip


def make_autoencoder_run(data_dir: Path | str = "", **sections: dict[str, Any]) -> AutoencoderRun:
    """Returns the small run, on the cards in `data_dir`, with fields replaced: `train={"steps": 3}`."""
    sections["data"] = {"data_dir": str(data_dir)} | sections.get("data", {})
    replaced = {name: dataclasses.replace(getattr(RUN, name), **fields) for name, fields in sections.items()}
    return dataclasses.replace(RUN, **replaced)


def train_autoencoder(
    cfg: AutoencoderRun, workdir: Path, devices: Sequence[Any] | None = None, stop_after: int | None = None
) -> TrainState:
    """Runs or continues the training of an autoencoder."""
    return run(AutoencoderTask(cfg, devices), workdir, stop_after=stop_after)
