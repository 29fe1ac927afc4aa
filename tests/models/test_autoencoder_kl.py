import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from nami_jax.config import ConfigError
from nami_jax.models.autoencoder_kl import AutoencoderKL, AutoencoderKLConfig, export_autoencoder, load_autoencoder
from nami_jax.weights import WeightsError
from tests.support.paths import GOLDEN

VECTORS = GOLDEN / "autoencoder.safetensors"
NAMES = ("attention", "quant")
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


def read(name: str) -> tuple[AutoencoderKLConfig, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Returns one golden model's sizes, weights, and vectors turned to NHWC."""
    with safetensors.safe_open(VECTORS, "np") as file:
        cfg = AutoencoderKLConfig.from_hf(json.loads(file.metadata()["configs"])[name])
    weights, vectors = {}, {}
    for key, tensor in safetensors.numpy.load_file(VECTORS).items():
        if key.startswith(f"{name}.weights."):
            weights[key.removeprefix(f"{name}.weights.")] = tensor
        elif key.startswith(f"{name}."):
            vectors[key.removeprefix(f"{name}.")] = tensor.transpose(0, 2, 3, 1)
    return cfg, weights, vectors


@nnx.jit
def run(model: AutoencoderKL, images: jax.Array, latents: jax.Array) -> dict[str, jax.Array]:
    mean, logvar = model.encode(images)
    return {"mean": mean, "logvar": logvar, "decoded": model.decode(latents)}


def relative_errors(name: str, dtype: jax.typing.DTypeLike) -> dict[str, float]:
    cfg, weights, golden = read(name)
    results = run(load_autoencoder(cfg, weights, dtype), *map(jnp.asarray, (golden["images"], golden["latents"])))
    assert {result.dtype for result in results.values()} == {jnp.dtype("float32")}
    return {key: float(np.abs(x - golden[key]).max() / np.abs(golden[key]).max()) for key, x in results.items()}


@pytest.mark.parametrize("name", NAMES)
def test_moments_and_images_agree_with_diffusers(name):
    # Both sides compute in float32, some forty layers deep; 1e-5 of the largest value is about 80 roundings.
    assert {key: error for key, error in relative_errors(name, jnp.float32).items() if not error <= 1e-5} == {}


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_computation_stays_near_the_exact_one(name):
    # bfloat16 rounds to 1/256 in every layer; the errors of forty layers mostly cancel.
    errors = relative_errors(name, jnp.bfloat16)
    assert all(1e-5 < error <= 2e-2 for error in errors.values()), errors


def test_logarithm_of_the_variance_is_clipped():
    cfg, weights, golden = read("quant")
    weights["quant_conv.bias"] += np.float32(100)
    mean, logvar = nnx.jit(AutoencoderKL.encode)(load_autoencoder(cfg, weights), jnp.asarray(golden["images"]))
    assert mean.min() > 20
    assert (logvar == 20).all()


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_exported_under_the_same_keys_bit_for_bit(name):
    cfg, weights, _ = read(name)
    exported = export_autoencoder(load_autoencoder(cfg, weights))
    assert exported.keys() == weights.keys()
    assert all(np.array_equal(exported[key], weights[key]) for key in weights)


def test_old_names_of_the_attention_are_understood():
    cfg, weights, _ = read("attention")
    renamed = {}
    for key, tensor in weights.items():
        for new, old in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
            key = key.replace(f".{new}.", f".{old}.")
        renamed[key] = tensor
    assert sum(key not in weights for key in renamed) == 2 * 4 * 2
    exported = export_autoencoder(load_autoencoder(cfg, renamed))
    assert all(np.array_equal(exported[key], weights[key]) for key in weights)


def test_every_mismatched_key_is_listed_at_once():
    cfg, weights, _ = read("quant")
    weights["left.over"] = weights.pop("encoder.conv_in.bias")
    weights["decoder.conv_out.weight"] = weights["decoder.conv_out.weight"][:, :3]
    with pytest.raises(WeightsError) as error:
        load_autoencoder(dataclasses.replace(cfg, use_post_quant_conv=False), weights)
    assert str(error.value).splitlines()[1:] == [
        "  misshapen   decoder.conv_out.weight: (3, 3, 3, 3), the network has (3, 4, 3, 3)",
        "  missing     encoder.conv_in.bias (4,)",
        "  unexpected  left.over (4,)",
        "  unexpected  post_quant_conv.bias (3,)",
        "  unexpected  post_quant_conv.weight (3, 3, 1, 1)",
    ]


def test_full_size_autoencoder_has_its_published_shapes_and_number_of_parameters():
    cfg = AutoencoderKLConfig.from_hf(RELEASED)
    model = nnx.eval_shape(lambda: AutoencoderKL(cfg, dtype=jnp.bfloat16, rngs=nnx.Rngs(0)))
    images = jax.ShapeDtypeStruct((2, 1024, 1024, 3), jnp.float32)
    mean, logvar = nnx.eval_shape(lambda model, images: model.encode(images), model, images)
    assert cfg.downscale == 8
    assert (mean.shape, mean.dtype) == (logvar.shape, logvar.dtype) == ((2, 128, 128, 16), jnp.float32)
    decoded = nnx.eval_shape(lambda model, latents: model.decode(latents), model, mean)
    assert (decoded.shape, decoded.dtype) == (images.shape, jnp.float32)
    leaves = jax.tree.leaves(nnx.state(model))
    assert sum(leaf.size for leaf in leaves) == 83_819_683
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}


def test_config_survives_the_way_through_json():
    cfg = AutoencoderKLConfig.from_hf(RELEASED)
    assert AutoencoderKLConfig.from_hf(json.loads(json.dumps(cfg.to_hf()))) == cfg
    assert cfg.shift_factor == 0.1159
    assert AutoencoderKLConfig.from_hf(RELEASED | {"shift_factor": None, "force_upcast": True}).shift_factor is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"down_block_types": ["DownEncoderBlock2D", "AttnDownEncoderBlock2D"]}, "down_block_types = .* only"),
        ({"up_block_types": ["UpDecoderBlock2D"]}, "up_block_types = .* only"),
        ({"in_channels": 1}, "in_channels = 1: only 3 is computed here"),
        ({"act_fn": "gelu"}, "act_fn = 'gelu': only 'silu' is computed here"),
        ({"latents_std": [0.5] * 16}, "latents_std = .*: only None"),
        ({"norm_num_groups": 48}, r"block_out_channels = \(128, .*: needs multiples of norm_num_groups = 48"),
        ({"layers_per_block": 0}, "layers_per_block = 0: must be at least 1"),
        ({"scaling_factor": 0}, "scaling_factor = 0: must be positive"),
        ({"shift_factor": float("nan")}, "shift_factor = nan: must be finite"),
        ({"block_out_channels": []}, "block_out_channels = .*: needs multiples"),
        ({"block_out_channels": 128}, "block_out_channels"),
        ({"latent_channels": "16"}, "latent_channels"),
    ],
)
def test_config_of_another_variant_is_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        AutoencoderKLConfig.from_hf(RELEASED | fields)


def test_config_names_a_missing_size():
    with pytest.raises(ConfigError, match=r'"latent_channels".*Take the autoencoder\'s own config.json'):
        AutoencoderKLConfig.from_hf({"block_out_channels": [32]})
