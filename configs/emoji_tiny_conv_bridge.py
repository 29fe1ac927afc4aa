"""emoji_tiny_bridge with the bridge in its size-free form: a scale and two small convolutions.

make train CONFIG=configs/emoji_tiny_conv_bridge.py

Hardware and time as emoji_tiny_bridge. Writes runs/emoji_tiny_conv_bridge.
"""

from ml_collections import ConfigDict

from nami_jax.configs import emoji_tiny_bridge


def get_config() -> ConfigDict:
    config = emoji_tiny_bridge.get_config()
    config.bridge.kind = "conv"
    return config
