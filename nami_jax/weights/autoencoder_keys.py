"""Released autoencoders: sizes from config.json and weights by the key names of diffusers' `AutoencoderKL`."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from nami_jax.config import require
from nami_jax.models.autoencoder_kl import IMAGE_CHANNELS, AutoencoderKL, AutoencoderKLConfig
from nami_jax.weights.pretrained import Pretrained

# Names of the attention's parts in checkpoints that early versions of diffusers wrote.
OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}

AUTOENCODER = Pretrained[AutoencoderKLConfig, AutoencoderKL](
    AutoencoderKL, known_as=lambda key: ".".join(OLD_NAMES.get(part, part) for part in key.split("."))
)
load_autoencoder, export_autoencoder = AUTOENCODER.load, AUTOENCODER.export


def read_autoencoder_config(fields: Mapping[str, Any]) -> AutoencoderKLConfig:
    """Picks the sizes out of a parsed config.json, whose other entries do not change what is computed.

    Raises:
        ConfigError: a size is missing or of the wrong type, or the file describes an unsupported variant.
    """
    cfg = AutoencoderKLConfig.pick(fields)
    for name, value in fixed_fields(len(cfg.block_out_channels)).items():
        given = fields.get(name, value)
        given = tuple(given) if isinstance(given, list) else given
        require(
            given == value,
            field=name,
            value=given,
            rule=f"only {value!r} is supported",
            remedy="Use another autoencoder",
        )
    return cfg


def released_autoencoder_config(cfg: AutoencoderKLConfig) -> dict[str, Any]:
    """Returns the entries of a config.json that diffusers and `read_autoencoder_config` read."""
    fields = fixed_fields(len(cfg.block_out_channels)) | dataclasses.asdict(cfg)
    return {"_class_name": "AutoencoderKL"} | fields


def fixed_fields(blocks: int) -> dict[str, Any]:
    """Returns the entries of config.json that have one value here, for a network of that many resolutions."""
    return {
        "in_channels": IMAGE_CHANNELS,
        "out_channels": IMAGE_CHANNELS,
        "down_block_types": ("DownEncoderBlock2D",) * blocks,
        "up_block_types": ("UpDecoderBlock2D",) * blocks,
        "act_fn": "silu",
        "latents_mean": None,  # scaling by channel, instead of one factor for all
        "latents_std": None,
    }
