"""Your own pictures, as latents: 64x64 and the like, through their own autoencoder. docs/your_images.md is the guide.

make prepare CONFIG=configs/my_autoencoder.py SOURCE=my_images
make train CONFIG=configs/my_autoencoder.py                     # the autoencoder
make prepare CONFIG=configs/my_latents.py SOURCE=my_images      # latents and text states
make train CONFIG=configs/my_latents.py                         # the flow
make sample CONFIG=configs/my_latents.py PROMPT="one of your captions"

Hardware: two CPU cores. Writes data/my_latents and runs/my_latents.
"""

from ml_collections import ConfigDict

from nami_jax.configs import my_images


def get_config() -> ConfigDict:
    config = my_images.get_config()
    config.model.update(channels=4, patch_size=2)
    config.data.update(
        side=64,
        buckets=((64, 64), (64, 96), (96, 64)),  # multiples of 32: 3 stages of 2x2 patches of latents of 4x4 pixels
        prepared="data/my_latents",
    )
    config.autoencoder.update(folder="runs/my_autoencoder/vae", downscale=4)
    return config
