import dataclasses
import json

import numpy as np
import pytest

from nami_jax.config import ConfigError
from nami_jax.models.autoencoder_kl import AutoencoderKLConfig
from nami_jax.weights import WeightsError
from nami_jax.weights.autoencoder_keys import (
    export_autoencoder,
    load_autoencoder,
    read_autoencoder_config,
    released_autoencoder_config,
)
from tests.support.golden_networks import golden_autoencoder

RELEASED = {
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "latent_channels": 16,
    "norm_num_groups": 32,
    "scaling_factor": 0.3611,
    "shift_factor": 0.1159,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
    "sample_size": 1024,
}


def read(name: str) -> tuple[AutoencoderKLConfig, dict[str, np.ndarray]]:
    golden = golden_autoencoder(name)
    return read_autoencoder_config(golden.config), golden.weights


@pytest.mark.parametrize("name", ["attention", "quant"])
def test_weights_are_exported_under_the_same_keys_bit_for_bit(name):
    cfg, weights = read(name)
    exported = export_autoencoder(load_autoencoder(cfg, weights))
    assert exported.keys() == weights.keys()
    assert all(np.array_equal(exported[key], weights[key]) for key in weights)


def test_old_names_of_the_attention_are_understood():
    cfg, weights = read("attention")
    renamed = {}
    for key, tensor in weights.items():
        for new, old in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
            key = key.replace(f".{new}.", f".{old}.")
        renamed[key] = tensor
    assert sum(key not in weights for key in renamed) == 2 * 4 * 2
    exported = export_autoencoder(load_autoencoder(cfg, renamed))
    assert all(np.array_equal(exported[key], weights[key]) for key in weights)


def test_every_mismatched_key_is_listed_at_once():
    cfg, weights = read("quant")
    weights["left.over"] = weights.pop("encoder.conv_in.bias")
    weights["decoder.conv_out.weight"] = weights["decoder.conv_out.weight"][:, :3]
    with pytest.raises(WeightsError) as error:
        load_autoencoder(dataclasses.replace(cfg, use_post_quant_conv=False), weights)
    assert str(error.value).splitlines()[1:] == [
        "  mismatched  decoder.conv_out.weight: (3, 3, 3, 3), the network has (3, 4, 3, 3)",
        "  missing     encoder.conv_in.bias (4,)",
        "  unexpected  left.over (4,)",
        "  unexpected  post_quant_conv.bias (3,)",
        "  unexpected  post_quant_conv.weight (3, 3, 1, 1)",
    ]


def test_config_survives_the_way_through_json():
    cfg = read_autoencoder_config(RELEASED)
    assert read_autoencoder_config(json.loads(json.dumps(released_autoencoder_config(cfg)))) == cfg
    assert cfg.shift_factor == 0.1159
    assert read_autoencoder_config(RELEASED | {"shift_factor": None, "force_upcast": True}).shift_factor is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"down_block_types": ["DownEncoderBlock2D", "AttnDownEncoderBlock2D"]}, "down_block_types = .* only"),
        ({"up_block_types": ["UpDecoderBlock2D"]}, "up_block_types = .* only"),
        ({"in_channels": 1}, "in_channels = 1: only 3 is supported"),
        ({"act_fn": "gelu"}, "act_fn = 'gelu': only 'silu' is supported"),
        ({"latents_std": [0.5] * 16}, "latents_std = .*: only None"),
        ({"norm_num_groups": 48}, r"block_out_channels = \(128, .*: needs multiples of norm_num_groups = 48"),
        ({"layers_per_block": 0}, r"layers_per_block = 0: must be in 1\.\.8"),
        ({"scaling_factor": 0}, "scaling_factor = 0: must be at least 1e-06"),
        ({"shift_factor": float("nan")}, "shift_factor = nan: must be a finite number"),
        ({"block_out_channels": []}, r"block_out_channels = \(\): needs at least 1 entries"),
        ({"block_out_channels": 128}, "block_out_channels = 128: must be a list"),
        ({"block_out_channels": [10**9]}, r"block_out_channels\[0\] = 1000000000: must be at most 131072"),
        ({"layers_per_block": 10**9}, "layers_per_block = 1000000000: must be in"),
        ({"latent_channels": "16"}, "latent_channels = '16': must be an integer"),
    ],
)
def test_config_of_another_variant_is_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        read_autoencoder_config(RELEASED | fields)


def test_config_names_a_missing_size():
    with pytest.raises(ConfigError, match=r"latent_channels: is missing\. Use the autoencoder's own config.json"):
        read_autoencoder_config({"block_out_channels": [32]})
