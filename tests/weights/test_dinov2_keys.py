import pytest

from nami_jax.config import ConfigError
from nami_jax.weights import WeightsError
from nami_jax.weights.dinov2_keys import known_as, load_dinov2, read_dinov2_config
from tests.support.golden_networks import golden_features

GOLDEN = golden_features("dinov2")
CFG = read_dinov2_config(GOLDEN.config)


def test_both_names_of_an_attention_are_known():
    released = "encoder.layer.1.attention.attention.query.weight"
    assert known_as("dinov2.encoder.layer.1.attention.q_proj.weight") == released == known_as(released)
    assert known_as("encoder.layer.0.attention.o_proj.bias") == "encoder.layer.0.attention.output.dense.bias"


def test_released_names_load_and_what_is_missing_is_listed():
    released = {known_as(key): tensor for key, tensor in GOLDEN.weights.items()}
    load_dinov2(CFG, released)
    del released["encoder.layer.1.attention.attention.query.bias"]
    with pytest.raises(WeightsError, match=r"missing     encoder\.layer\.1\.attention\.attention\.query\.bias \(16,\)"):
        load_dinov2(CFG, released)


def test_a_table_of_another_side_is_named():
    weights = GOLDEN.weights | {
        "embeddings.position_embeddings": GOLDEN.weights["embeddings.position_embeddings"][:, 1:]
    }
    with pytest.raises(WeightsError, match=r"position_embeddings\.weight: \(16, 16\), the network has \(17, 16\)"):
        load_dinov2(CFG, weights)


def test_variants_that_are_not_computed_are_refused():
    for change in ({"use_swiglu_ffn": True}, {"model_type": "dinov2_with_registers"}, {"hidden_act": "relu"}):
        with pytest.raises(ConfigError, match=r"only .* is supported\. Use DINOv2 ViT-S, -B or -L without registers"):
            read_dinov2_config(GOLDEN.config | change)
