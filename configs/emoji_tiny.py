"""The start in minutes: 32x32 emoji of food and animals, in pixel space, on a laptop's CPU.

make train
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.data.name = "emoji_captions/food_animals_32"
    config.text.max_length = 12
    config.train.update(
        steps=1500,
        stage_batches=((32, 16, 16),),
        phase_starts=(0.0,),
        phase_learning_rates=(2e-3,),
        warmup_steps=50,
        decay="cosine",
        ema_decay=0.995,
        sample_every=300,
        eval_every=100,
        checkpoint_every=500,
    )
    return config
