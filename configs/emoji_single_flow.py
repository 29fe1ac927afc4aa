"""The baseline of emoji_tiny: ordinary rectified flow, K = 1, by the same code.

make train CONFIG=configs/emoji_single_flow.py

Held equal to emoji_tiny: the parameters (every step runs all of its blocks), the number of training steps and of solver
steps, the images of a step, and every other setting. All of the images are full size here, where emoji_tiny sees most
of its own smaller and through fewer blocks: the baseline gets more compute per step, never less.
"""

from ml_collections import ConfigDict

from nami_jax.configs import emoji_tiny


def get_config() -> ConfigDict:
    config = emoji_tiny.get_config()
    config.model.stage_single_blocks = config.model.stage_single_blocks[-1:]
    config.flow.sigma_ends = None
    config.train.stage_batches = tuple((sum(images),) for images in config.train.stage_batches)
    config.sample.steps = (sum(config.sample.steps),)
    return config
