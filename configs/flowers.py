"""Train on any tensorflow-datasets set by its name and two keys: here photographs with class names for captions.

make train CONFIG=configs/flowers.py

64x64 pixels, 29 M parameters, the paper's three phases. Downloads 229 MB through tensorflow-datasets at the first
start. Hardware: one GPU. Writes runs/flowers.
"""

import dataclasses

from ml_collections import ConfigDict

from nami_jax.configs import base, presets


def get_config() -> ConfigDict:
    config = base.get_config()
    config.model = ConfigDict(dataclasses.asdict(presets.SMALL))
    config.data.update(
        name="tf_flowers",  # needs no tensorflow to prepare, as e.g. oxford_flowers102 does
        train_split="train[:95%]",
        eval_split="train[95%:]",
        image_key="image",
        caption_key="label",  # a class label: its name is the caption
        caption_templates=("{}", "a photo of {}", "{} in bloom"),
        side=64,
        flip=True,
    )
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
