"""Concepts x styles: 1,626 emoji by Twemoji, Noto and Fluent (glossy and flat), at 32x32, to judge what generalises.

make train CONFIG=configs/styles.py

Its data need packages from npm besides those from pip: `make styles`, which the command above runs first. Validation is
on pairs that training never sees, of emoji that it sees in other styles; --config.data.eval_split=held_out takes emoji
that it sees in no style. A prompt names both: "a red apple, noto style". See docs/data.md.

Hardware: a GPU, or two CPU cores for half an hour.
"""

import dataclasses

from ml_collections import ConfigDict

from nami_jax.configs import base, presets


def get_config() -> ConfigDict:
    config = base.get_config()
    config.model = ConfigDict(dataclasses.asdict(presets.TINY))
    # Here and below: what won in the trials and ablations of docs/results.md.
    config.model.stage_single_blocks = (0, 2, 4)
    config.data.update(name="emoji_captions/styles_32", eval_split="held_out_pairs", cache_images=8192)
    config.text.max_length = 18
    config.train.update(
        steps=6000,
        stage_batches=((64, 32, 8), (32, 16, 24)),
        phase_starts=(0.0, 0.5),
        phase_learning_rates=(8e-3, 8e-3),
        warmup_steps=200,
        decay="cosine",
        optimizer="muon",
        contrastive_weight=0.05,
        ema_decay=0.998,
        sample_every=1000,
        eval_every=1000,
        checkpoint_every=1000,
    )
    config.sample.guidance_scale = 2.5
    return config
