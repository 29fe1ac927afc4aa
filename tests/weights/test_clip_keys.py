import pytest

from nami_jax.config import ConfigError
from nami_jax.weights import WeightsError
from nami_jax.weights.clip_keys import load_clip, read_clip_config
from tests.support.golden_networks import golden_features

GOLDEN = golden_features("clip")


def test_the_towers_have_their_own_sizes_and_others_are_ignored():
    cfg = read_clip_config(GOLDEN.config | {"logit_scale_init_value": 2.6592})
    assert (cfg.projection_dim, cfg.text_config.vocab_size, cfg.vision_config.patch_size) == (12, 30, 8)
    assert (cfg.text_config.hidden_act, cfg.vision_config.hidden_act) == ("gelu", "quick_gelu")


def test_what_does_not_fit_is_listed():
    weights = GOLDEN.weights | {"extra": GOLDEN.weights["logit_scale"]}
    del weights["text_projection.weight"]
    with pytest.raises(WeightsError, match=r"missing     text_projection\.weight \(12, 16\)\n  unexpected  extra \(\)"):
        load_clip(read_clip_config(GOLDEN.config), weights)


def test_other_networks_and_half_a_clip_are_refused():
    with pytest.raises(ConfigError, match=r"model_type = 'siglip': only 'clip' is supported"):
        read_clip_config(GOLDEN.config | {"model_type": "siglip"})
    with pytest.raises(ConfigError, match=r"text_config = None: must hold the sizes of the tower"):
        read_clip_config({"vision_config": {}})
    with pytest.raises(ConfigError, match=r"vision_config: hidden_act = 'relu': is not a valid choice"):
        read_clip_config(GOLDEN.config | {"vision_config": {"hidden_act": "relu"}})
