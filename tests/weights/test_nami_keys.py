import dataclasses
import json

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

from configs import presets
from nami_jax.models.bridge import ConvBridge
from nami_jax.models.nami import abstract_model
from nami_jax.weights import WeightsError, expected_shapes, open_tensors
from nami_jax.weights.nami_keys import (
    bridge_shapes,
    export_bridge,
    export_nami,
    load_bridge,
    load_nami,
    model_config,
    nami_slots,
    read_bridge,
    released_transformer_config,
)
from tests.support.paths import GOLDEN
from tests.support.sizes import MODEL

VECTORS = GOLDEN / "nami_tiny"
RELEASED = json.loads((VECTORS / "config.json").read_text())["transformer"]


def test_export_undoes_loading_bit_for_bit():
    tensors = load_file(VECTORS / "transformer.safetensors")
    exported = export_nami(load_nami(model_config(RELEASED), tensors))
    assert exported.keys() == tensors.keys()
    for key, tensor in tensors.items():
        np.testing.assert_array_equal(exported[key], tensor, err_msg=key)


def test_released_configuration_gives_our_sizes():
    cfg = model_config(RELEASED)
    assert (cfg.width, cfg.channels, cfg.patch_size, cfg.stage_single_blocks) == (32, 4, 2, (1, 2, 3))


@pytest.mark.parametrize("name", ["NAMI_2B", "NAMI_0_6B"])
def test_our_sizes_survive_the_released_configuration(name):
    cfg = getattr(presets, name)
    released = json.loads(json.dumps(released_transformer_config(cfg)))
    compute = {"dtype": cfg.dtype, "scan_blocks": cfg.scan_blocks, "remat": cfg.remat}
    assert dataclasses.replace(model_config(released), **compute) == cfg


def test_the_released_configuration_survives_ours():
    ours = released_transformer_config(model_config(RELEASED))
    assert {name: ours[name] for name in RELEASED} == RELEASED


def test_what_the_release_cannot_express_is_refused():
    cfg = dataclasses.replace(presets.NAMI_2B, patch_size=4, mlp_ratio=2)
    with pytest.raises(WeightsError, match=r"model.patch_size = 4, not 2; model.mlp_ratio = 2, not 4: a release can"):
        released_transformer_config(cfg)


def test_every_tensor_of_nami_2b_has_the_shape_of_its_published_parameter_count():
    shapes = expected_shapes(nami_slots(presets.NAMI_2B), abstract_model(presets.NAMI_2B)[1])
    assert sum(int(np.prod(shape)) for shape in shapes.values()) / 1e9 == pytest.approx(2.118, abs=5e-4)
    assert shapes["single_transformer_blocks.13.proj_out.weight"] == (2048, 5 * 2048)
    assert shapes["transformer_blocks.7.norm1_context.linear.weight"] == (6 * 2048, 2048)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"guidance_embeds": True}, "guidance_embeds = True, expected False"),
        ({"patch_size": 2, "out_channels": 4}, "patch_size = 2, expected 1; out_channels = 4, expected 16"),
        ({"in_channels": 18}, "in_channels = 18, expected 16"),
        ({"attention_head_dim": 12}, "attention_head_dim = 12, expected 16"),
        ({"num_single_layers": 4}, "num_single_layers = 4, expected 3"),
        ({"num_layers": "8", "axes_dims_rope": []}, "num_layers, axes_dims_rope missing or invalid"),
        ({"stage_singleblock_index": None}, "stage_singleblock_index missing or invalid"),
    ],
)
def test_configurations_of_other_networks_are_refused(changes, message):
    with pytest.raises(WeightsError, match=message):
        model_config(RELEASED | changes)


def test_missing_sizes_are_named():
    with pytest.raises(
        WeightsError, match=r"config.json: in_channels, num_layers, .*, stage_singleblock_index missing"
    ):
        model_config({})


def test_bridge_shifts_are_turned_to_nhwc():
    tensors = load_file(VECTORS / "bridge_flow.safetensors")
    bridge = load_bridge(open_tensors(VECTORS / "bridge_flow.safetensors"))
    np.testing.assert_array_equal(bridge.scales[...], tensors["scale"])
    np.testing.assert_array_equal(bridge.shifts[1][...], tensors["shift.1"][0].transpose(1, 2, 0))


def test_a_bridge_is_float32_whatever_is_stored_and_exports_what_was_loaded():
    tensors = {k: v.astype(ml_dtypes.bfloat16) for k, v in load_file(VECTORS / "bridge_flow.safetensors").items()}
    exported = export_bridge(load_bridge(tensors))
    assert exported.keys() == tensors.keys()
    for key, tensor in tensors.items():
        assert exported[key].dtype == np.float32
        np.testing.assert_array_equal(exported[key], tensor.astype(np.float32))


def test_a_bridge_of_convolutions_exports_what_it_reads_again():
    bridge = ConvBridge(MODEL.channels, MODEL.num_stages - 1, rngs=nnx.Rngs(0))
    params = nnx.to_pure_dict(nnx.state(bridge))
    params["conv_out"][1]["kernel"] = np.random.default_rng(0).standard_normal((3, 3, 32, 3)).astype(np.float32)
    nnx.update(bridge, params)
    again = read_bridge("conv", MODEL, export_bridge(bridge))
    upsampled = jnp.asarray(np.random.default_rng(1).standard_normal((1, 8, 12, 3)), jnp.float32)
    for stage in (2, 3):
        np.testing.assert_array_equal(again(upsampled, stage=stage), bridge(upsampled, stage=stage))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shift.1": None}, r"missing     shift\.1 \(1, 4, 16, 16\)"),
        ({"shift.2": (1, 4, 32, 32)}, r"unexpected  shift\.2"),
        ({"shift.0": (1, 4, 4, 4)}, r"mismatched  shift\.0: \(1, 4, 4, 4\), the network has \(1, 4, 8, 8\)"),
        ({"scale": None}, "unexpected  shift.0"),
    ],
)
def test_a_bridge_whose_parts_do_not_belong_together_is_refused(change, message):
    tensors = load_file(VECTORS / "bridge_flow.safetensors")
    for key, shape in change.items():
        tensors.pop(key, None)
        tensors |= {} if shape is None else {key: np.zeros(shape, np.float32)}
    with pytest.raises(WeightsError, match=message):
        load_bridge(tensors)


def test_a_bridge_must_have_the_networks_stages_and_channels():
    found = {"scale": (2,), "shift.0": (1, 16, 8, 8), "shift.1": (1, 16, 16, 16)}
    assert bridge_shapes(found) == found
    assert bridge_shapes(found, MODEL) == {"scale": (2,), "shift.0": (1, 3, 8, 8), "shift.1": (1, 3, 16, 16)}
