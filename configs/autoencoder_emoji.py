"""An autoencoder of all emoji at 64x64, for a flow of its latents: 16x16, 4 channels. Lists every field of such a run.

make train CONFIG=configs/autoencoder_emoji.py

Hardware: two CPU cores, 10 minutes. Leaves runs/autoencoder_emoji, and in it vae/ in the
layout of diffusers. Held-out emoji come back at 27.6 dB.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def get_config() -> ConfigDict:
    model = ConfigDict(
        {
            "block_out_channels": (16, 32, 64),  # at 64, 32 and 16 pixels; each but the first halves the sides
            "latent_channels": 4,
            "layers_per_block": 1,  # residual blocks at each resolution; the decoder has one more
            "norm_num_groups": 8,
            "mid_attention": True,  # self-attention of all latents in the middle of encoder and decoder
        }
    )
    data = ConfigDict(
        {
            "name": "emoji_captions/all_64",
            "train_split": "train",
            "eval_split": "held_out",
            "image_key": "image",
            "caption_key": "captions",  # names the images in the grids
            "side": 64,
            "data_dir": "data",
            "max_corrupt_share": 0.01,
            "cache_images": 4096,
            "flip": True,
            "prepared": placeholder(str),
        }
    )
    loss = ConfigDict(
        {
            "pixel": 1.0,  # of the mean absolute difference, images in [-1, 1]
            "perceptual": 0.2,  # of the distance of features; 0 leaves it out
            "perceptual_blocks": 3,  # of VGG16 whose features are compared
            "kl": 1e-4,  # of the mean divergence of the latents' posterior from a standard normal, in nats
        }
    )
    train = ConfigDict(
        {
            "seed": 0,
            "steps": 3000,
            "batch": 8,
            "crop": 32,  # trained on random squares of this side, pixels: convolutions carry over to whole images
            "learning_rate": 4e-3,
            "warmup_steps": 50,
            "adam_b1": 0.9,
            "adam_b2": 0.99,
            "grad_clip": 1.0,
            "ema_decay": 0.99,
            "log_every": 50,
            "eval_every": 250,
            "checkpoint_every": 250,
            "keep_checkpoints": 2,
            "sample_every": 500,
            "sample_images": 16,
        }
    )
    return ConfigDict({"task": "autoencoder", "model": model, "data": data, "loss": loss, "train": train})
