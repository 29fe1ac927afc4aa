"""The real small model: all emoji at 64x64 in pixel space, 29 M parameters, with the paper's three phases.

make train CONFIG=configs/emoji.py

Hardware: one GPU (minutes) or a CPU (many hours). Writes runs/emoji.
"""

import dataclasses

from ml_collections import ConfigDict

from nami_jax.configs import base, presets


def get_config() -> ConfigDict:
    config = base.get_config()
    config.model = ConfigDict(dataclasses.asdict(presets.SMALL))
    config.data.name = "emoji_captions/all_64"
    config.data.side = 64
    config.train.update(
        steps=30_000,
        stage_batches=((128, 64, 32), (64, 128, 32), (32, 64, 128)),
        phase_learning_rates=(5e-4, 5e-4, 2.5e-4),
        eval_batch=32,
        checkpoint_every=1000,
        sample_every=1000,
        ema_decay=0.9995,
        decay="cosine",
    )
    return config
