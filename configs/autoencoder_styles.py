"""An autoencoder of the concepts x styles at 64x64, for a flow of their latents: 16x16, 4 channels.

make train CONFIG=configs/autoencoder_styles.py

Hardware: two CPU cores, 10 minutes. Writes runs/autoencoder_styles, and in it vae/ in the layout of diffusers.
"""

from nami_jax.configs import autoencoder_emoji


def get_config():
    config = autoencoder_emoji.get_config()
    config.data.update(name="emoji_captions/styles_64", eval_split="held_out_pairs")
    return config
