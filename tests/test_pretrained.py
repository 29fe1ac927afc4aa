import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from nami_jax.pretrained import export_nami, load_bridge, load_nami, model_config
from nami_jax.weights import WeightsError

GOLDEN = Path(__file__).parent / "golden" / "nami_tiny"
RELEASED = json.loads((GOLDEN / "config.json").read_text())["transformer"]


def test_export_undoes_loading_bit_for_bit():
    tensors = load_file(GOLDEN / "transformer.safetensors")
    exported = export_nami(load_nami(model_config(RELEASED), tensors))
    assert exported.keys() == tensors.keys()
    for key, tensor in tensors.items():
        np.testing.assert_array_equal(exported[key], tensor, err_msg=key)


def test_released_configuration_gives_our_sizes():
    cfg = model_config(RELEASED)
    assert (cfg.width, cfg.channels, cfg.patch_size, cfg.stage_single_blocks) == (32, 4, 2, (1, 2, 3))


def test_guidance_distilled_transformers_are_refused():
    with pytest.raises(WeightsError, match="guidance_embeds"):
        model_config(RELEASED | {"guidance_embeds": True})


def test_bridge_shifts_are_turned_to_nhwc():
    tensors = load_file(GOLDEN / "bridge_flow.safetensors")
    bridge = load_bridge(tensors)
    np.testing.assert_array_equal(bridge.scales[...], tensors["scale"])
    np.testing.assert_array_equal(bridge.shifts[1][...], tensors["shift.1"][0].transpose(1, 2, 0))


def test_incomplete_bridge_is_refused():
    tensors = load_file(GOLDEN / "bridge_flow.safetensors")
    del tensors["shift.1"]
    with pytest.raises(WeightsError, match=r"missing     shift\.1"):
        load_bridge(tensors)
