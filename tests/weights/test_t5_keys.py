from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from nami_jax.config import ConfigError
from nami_jax.models.t5 import T5Config
from nami_jax.weights import WeightsError
from nami_jax.weights.t5_keys import load_t5, read_t5_config
from tests.support.golden_networks import golden_t5

MT5_XXL = {
    "model_type": "mt5",
    "vocab_size": 250112,
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10240,
    "num_layers": 24,
    "num_heads": 64,
    "relative_attention_num_buckets": 32,
    "layer_norm_epsilon": 1e-6,
    "feed_forward_proj": "gated-gelu",
}


@pytest.fixture(scope="module")
def weights() -> dict[str, np.ndarray]:
    return golden_t5().weights


@pytest.fixture(scope="module")
def fields() -> dict[str, Any]:
    return golden_t5().config


@pytest.fixture(scope="module")
def cfg(fields) -> T5Config:
    return read_t5_config(fields)


def test_full_t5_is_loaded_without_its_decoder(cfg, weights):
    t5 = load_t5(cfg, weights)
    extra = {
        "decoder.block.0.layer.0.SelfAttention.q.weight": np.zeros((30, 24), np.float32),
        "decoder.embed_tokens.weight": weights["shared.weight"],
        "encoder.embed_tokens.weight": weights["shared.weight"],
        "lm_head.weight": np.zeros((64, 24), np.float32),
    }
    whole = load_t5(cfg, weights | extra)
    same = jax.tree.map(np.array_equal, nnx.to_pure_dict(nnx.state(t5)), nnx.to_pure_dict(nnx.state(whole)))
    assert jax.tree.all(same)


def test_every_mismatched_key_is_listed_at_once(cfg, weights):
    broken = dict(weights)
    del broken["shared.weight"]
    del broken["encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"]
    broken["encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight"] = np.zeros((12, 3), np.float32)
    broken["encoder.block.2.layer.1.DenseReluDense.wo.weight"] = np.zeros((40, 24), np.float32)
    with pytest.raises(WeightsError, match="weights do not match the network") as error:
        load_t5(cfg, broken)
    assert str(error.value).splitlines()[1:] == [
        "  mismatched  encoder.block.2.layer.1.DenseReluDense.wo.weight: (40, 24), the network has (24, 40)",
        "  missing     encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight (12, 3)",
        "  missing     shared.weight (64, 24)",
        "  unexpected  encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight (12, 3)",
    ]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"feed_forward_proj": "relu"}, "feed_forward_proj = 'relu': only 'gated-gelu'"),
        ({"feed_forward_proj": "gated-silu"}, "feed_forward_proj = 'gated-silu'"),
        ({"model_type": "umt5"}, "model_type = 'umt5': only 't5' and 'mt5'"),
        ({"d_model": None}, "d_model = None: must be an integer"),
        ({"num_heads": 3.0}, "num_heads = 3.0: must be an integer"),
        ({"layer_norm_epsilon": None}, "layer_norm_epsilon = None: must be a number"),
        ({"relative_attention_num_buckets": 7}, "relative_attention_num_buckets = 7"),
        ({"relative_attention_max_distance": 3}, "relative_attention_max_distance = 3: need"),
    ],
)
def test_config_of_another_variant_is_refused(fields, changed, message):
    with pytest.raises(ConfigError, match=message):
        read_t5_config(fields | changed)


def test_first_t5_whose_config_names_no_projection_is_refused(fields):
    with pytest.raises(ConfigError, match=r"Use T5 version 1\.1 or mT5"):
        read_t5_config({name: value for name, value in fields.items() if name != "feed_forward_proj"})


def test_config_names_every_missing_size():
    with pytest.raises(ConfigError, match=r"^vocab_size, d_kv, d_ff, num_layers, num_heads: are missing\. Use the"):
        read_t5_config({"d_model": 24, "feed_forward_proj": "gated-gelu"})


def test_published_config_of_mt5_xxl_gives_its_sizes():
    cfg = read_t5_config(MT5_XXL)
    sizes = (cfg.vocab_size, cfg.d_model, cfg.d_kv, cfg.d_ff, cfg.num_layers, cfg.num_heads)
    assert sizes == (250112, 4096, 64, 10240, 24, 64)
    assert (cfg.relative_attention_num_buckets, cfg.relative_attention_max_distance) == (32, 128)
    assert cfg.layer_norm_epsilon == 1e-6
