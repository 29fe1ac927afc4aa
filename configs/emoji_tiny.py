"""A first run in minutes: 32x32 emoji of food and animals, in pixel space, on a laptop's CPU.

make train

Hardware: two CPU cores, about six minutes of training. Writes runs/emoji_tiny: about 22 of the 24 training captions in
the last grid are recognisable at a glance.
"""

import dataclasses

from ml_collections import ConfigDict

from nami_jax.configs import base, presets


def get_config() -> ConfigDict:
    config = base.get_config()
    config.model = ConfigDict(dataclasses.asdict(presets.TINY))
    config.data.name = "emoji_captions/food_animals_32"
    config.text.max_length = 8
    config.train.update(
        steps=1500,
        # Coarse images are cheap: first many of them to learn every layout, then more fine ones for the detail.
        stage_batches=((64, 32, 12), (24, 24, 24)),
        phase_starts=(0.0, 0.3),
        optimizer="muon",
        phase_learning_rates=(8e-3, 8e-3),
        warmup_steps=50,
        decay="cosine",
        ema_decay=0.995,
        sample_every=300,
        eval_every=150,
        checkpoint_every=300,
    )
    config.sample.guidance_scale = 2.0
    return config
