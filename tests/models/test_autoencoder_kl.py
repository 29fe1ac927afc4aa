import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from nami_jax.config import ConfigError
from nami_jax.models.autoencoder_kl import AutoencoderKL, AutoencoderKLConfig
from nami_jax.weights.autoencoder_keys import load_autoencoder, read_autoencoder_config
from tests.support.golden_networks import golden_autoencoder

NAMES = ("attention", "quant")
RELEASED = AutoencoderKLConfig(
    block_out_channels=(128, 256, 512, 512),
    layers_per_block=2,
    latent_channels=16,
    norm_num_groups=32,
    scaling_factor=0.3611,
    shift_factor=0.1159,
    use_quant_conv=False,
    use_post_quant_conv=False,
    sample_size=1024,
)


@nnx.jit
def run(model: AutoencoderKL, images: jax.Array, latents: jax.Array) -> dict[str, jax.Array]:
    mean, logvar = model.encode(images)
    return {"mean": mean, "logvar": logvar, "decoded": model.decode(latents)}


def relative_errors(name: str, dtype: jax.typing.DTypeLike) -> dict[str, float]:
    config, weights, golden = golden_autoencoder(name)
    model = load_autoencoder(read_autoencoder_config(config), weights, dtype)
    results = run(model, *map(jnp.asarray, (golden["images"], golden["latents"])))
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
    config, weights, golden = golden_autoencoder("quant")
    weights["quant_conv.bias"] += np.float32(100)
    model = load_autoencoder(read_autoencoder_config(config), weights)
    mean, logvar = nnx.jit(AutoencoderKL.encode)(model, jnp.asarray(golden["images"]))
    assert mean.min() > 20
    assert (logvar == 20).all()


def test_full_size_autoencoder_has_its_published_shapes_and_number_of_parameters():
    model = nnx.eval_shape(lambda: AutoencoderKL(RELEASED, dtype=jnp.bfloat16, rngs=nnx.Rngs(0)))
    images = jax.ShapeDtypeStruct((2, 1024, 1024, 3), jnp.float32)
    mean, logvar = nnx.eval_shape(lambda model, images: model.encode(images), model, images)
    assert RELEASED.downscale == 8
    assert (mean.shape, mean.dtype) == (logvar.shape, logvar.dtype) == ((2, 128, 128, 16), jnp.float32)
    decoded = nnx.eval_shape(lambda model, latents: model.decode(latents), model, mean)
    assert (decoded.shape, decoded.dtype) == (images.shape, jnp.float32)
    leaves = jax.tree.leaves(nnx.state(model))
    assert sum(leaf.size for leaf in leaves) == 83_819_683
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"norm_num_groups": 48}, r"block_out_channels = \(128, .*: needs multiples of norm_num_groups = 48"),
        ({"layers_per_block": 0}, r"layers_per_block = 0: must be in 1\.\.8"),
        ({"scaling_factor": 0}, "scaling_factor = 0: must be at least 1e-06"),
        ({"shift_factor": float("nan")}, "shift_factor = nan: must be a finite number"),
        ({"block_out_channels": ()}, r"block_out_channels = \(\): needs at least 1 entries"),
    ],
)
def test_sizes_that_cannot_be_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(RELEASED, **fields)
