"""A flow of latents: 64x64 emoji of food and animals through a small autoencoder, on a laptop's CPU.

make train CONFIG=configs/autoencoder_emoji.py     # the autoencoder: 64x64x3 pixels to 16x16x4 latents
make prepare CONFIG=configs/emoji_latent.py        # latents and text states into data/emoji_latent
make train CONFIG=configs/emoji_latent.py          # the flow

The network of emoji_tiny, with as many tokens, draws pictures of four times the pixels. Hardware: two CPU cores, 10
minutes for the autoencoder; the flow took 5:20 with AdamW, and with Muon, as it is now, it was not timed. Writes
runs/emoji_latent.
"""

from nami_jax.configs import emoji_tiny


def get_config():
    config = emoji_tiny.get_config()
    config.model.update(channels=4, patch_size=2)
    config.data.update(name="emoji_captions/food_animals_64", side=64, prepared="data/emoji_latent")
    config.autoencoder.update(folder="runs/autoencoder_emoji/vae", downscale=4)
    return config
