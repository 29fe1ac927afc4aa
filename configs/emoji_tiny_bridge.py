"""emoji_tiny with the learned jump between stages, in the released form (a scale and a full-size shift), not renoising.

make train CONFIG=configs/emoji_tiny_bridge.py

First the bridge trains on its own (a minute), then the stages from where it leads; all else as in emoji_tiny. Hardware:
two CPU cores, 10 minutes. Writes runs/emoji_tiny_bridge. docs/bridge.md compares the two.
"""

from ml_collections import ConfigDict

from nami_jax.configs import emoji_tiny


def get_config() -> ConfigDict:
    config = emoji_tiny.get_config()
    config.bridge.kind = "full"
    config.bridge.steps = 2000
    config.sample.transition = "bridge"
    return config
