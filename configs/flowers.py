"""Train on any tensorflow-datasets set by its name and two keys: here photographs with class names for captions.

make train CONFIG=configs/flowers.py

The network and training of configs/emoji.py. Downloads 229 MB through tensorflow-datasets at the first start.
Hardware: one GPU. Writes runs/flowers.
"""

from ml_collections import ConfigDict

from nami_jax.configs import emoji


def get_config() -> ConfigDict:
    config = emoji.get_config()
    config.data.update(
        name="tf_flowers",  # needs no tensorflow to prepare, as e.g. oxford_flowers102 does
        train_split="train[:95%]",
        eval_split="train[95%:]",
        image_key="image",
        caption_key="label",  # a class label: its name is the caption
        caption_templates=("{}", "a photo of {}", "{} in bloom"),
        flip=True,
    )
    return config
