"""The model that comes with the package: concepts x styles at 64x64, as latents, 3.9 M parameters.

make train CONFIG=configs/autoencoder_styles.py    # 64x64x3 pixels to 16x16x4 latents
make prepare CONFIG=configs/emoji.py               # latents and text states into data/emoji
make train CONFIG=configs/emoji.py                 # the flow, into runs/emoji

The data and captions of configs/styles.py, and its training; of the pictures, 609 pairs and 59 concepts are held out.
Hardware: two CPU cores, 10 minutes for the autoencoder and some 80 minutes for the flow.
"""

from nami_jax.configs import styles


def get_config():
    config = styles.get_config()
    config.model.update(channels=4, patch_size=2, num_heads=6)
    config.data.update(
        name="emoji_captions/styles_64",
        side=64,
        prepared="data/emoji",
        lower_stages="pixels",
    )
    config.autoencoder.update(folder="runs/autoencoder_styles/vae", downscale=4)
    config.train.update(
        steps=7_000,
        phase_learning_rates=(6e-3, 6e-3),
        ema_decay=0.999,
        checkpoint_every=500,
    )
    return config
