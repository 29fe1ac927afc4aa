"""Goes on from a trained model, your own run or converted weights: other images, another size, or LoRA.

python -m nami_jax.train --config configs/finetune.py --workdir runs/mine \
    --config.train.init_from=runs/emoji_tiny --config.data.name=emoji_captions/all_32

What is None here is the model's own: sizes, text encoder, autoencoder, side of the images, bridge, sampler. Set any of
it to have it otherwise; sizes that the model does not have are refused. docs/finetuning.md has a command for each use.
Hardware and time: those of the run that it begins from, for as many steps.
"""

from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from nami_jax.config import AutoencoderConfig, FlowConfig, ModelConfig, SampleConfig, TextConfig
from nami_jax.config.listing import unset_section
from nami_jax.configs import base


def get_config() -> ConfigDict:
    config: Any = base.get_config()
    config.data.side = placeholder(int)
    config.bridge.noise = placeholder(float)
    for name, section in (
        ("model", ModelConfig),
        ("flow", FlowConfig),
        ("text", TextConfig),
        ("autoencoder", AutoencoderConfig),
        ("sample", SampleConfig),
    ):
        config[name] = unset_section(section)
    config.train.update(
        steps=500,
        stage_batches=((16, 16, 16),),
        phase_starts=(0.0,),
        phase_learning_rates=(5e-4,),
        warmup_steps=20,
        decay="cosine",
        ema_decay=0.99,
        log_every=10,
        eval_every=100,
        checkpoint_every=100,
        sample_every=100,
    )
    return config
