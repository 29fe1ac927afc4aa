"""emoji_tiny with the learned jump between stages (a scale and a full-size shift, as released), and noise in it.

make train CONFIG=configs/emoji_tiny_bridge.py

First the bridge trains on its own (a minute or two), then the stages from where it leads; all else as in emoji_tiny.
The jump adds half of the noise that renoising adds; `--config.bridge.noise=0.0` is the released jump, which cannot
draw what is finer than the first stage. Hardware: two CPU cores, eight minutes. Writes runs/emoji_tiny_bridge.
docs/bridge.md compares them.
"""

from ml_collections import ConfigDict

from nami_jax.configs import emoji_tiny


def get_config() -> ConfigDict:
    config = emoji_tiny.get_config()
    config.bridge.kind = "full"
    config.bridge.steps = 2000
    config.bridge.noise = 0.5
    config.sample.transition = "bridge"
    return config
