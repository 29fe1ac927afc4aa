"""Your own pictures, as pixels: 32x32 and the like, on a laptop's CPU. docs/your_images.md is the guide.

make prepare CONFIG=configs/my_images.py SOURCE=my_images      # a folder of images, each with its caption
make train CONFIG=configs/my_images.py
make sample CONFIG=configs/my_images.py PROMPT="one of your captions"

Hardware: two CPU cores. Writes data/my_images and runs/my_images.
"""

from ml_collections import ConfigDict

from nami_jax.configs import emoji_tiny


def get_config() -> ConfigDict:
    config = emoji_tiny.get_config()
    config.data.update(
        name="",
        side=32,  # height and width of pictures that are drawn, where none are asked for
        buckets=((32, 32), (32, 48), (48, 32)),  # (height, width): multiples of 16, for 3 stages of 4x4 patches
        prepared="data/my_images",
    )
    config.text.max_length = 24  # tokens of a caption; about as many words
    config.train.update(
        # One program is compiled for each bucket and phase: a single phase compiles three of them.
        stage_batches=((32, 16, 16),),
        phase_starts=(0.0,),
        phase_learning_rates=(4e-3,),
        eval_batch=8,
    )
    return config
