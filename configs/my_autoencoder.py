"""An autoencoder for your own pictures: 64x64 pixels and the like to 16x16 latents. docs/your_images.md is the guide.

make prepare CONFIG=configs/my_autoencoder.py SOURCE=my_images      # a folder of images; captions are not needed
make train CONFIG=configs/my_autoencoder.py

Hardware: two CPU cores. Writes data/my_autoencoder and runs/my_autoencoder, and in it vae/ for configs/my_latents.py.
"""

from ml_collections import ConfigDict

from nami_jax.configs import autoencoder_emoji


def get_config() -> ConfigDict:
    config = autoencoder_emoji.get_config()
    config.data.update(
        name="",
        side=64,
        buckets=((64, 64), (64, 96), (96, 64)),  # (height, width): those of configs/my_latents.py
        prepared="data/my_autoencoder",
    )
    return config
