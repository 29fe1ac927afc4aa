import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from nami_jax.autoencoder.codec import Autoencoder, save_autoencoder
from nami_jax.autoencoder.tiling import tile_starts
from nami_jax.config import AutoencoderConfig, ConfigError
from nami_jax.models.autoencoder_kl import AutoencoderKL
from nami_jax.parallel.kept_programs import compilations
from nami_jax.weights import WeightsError
from nami_jax.weights.autoencoder_keys import export_autoencoder, load_autoencoder, read_autoencoder_config
from tests.support.golden_networks import GoldenNetwork, golden_autoencoder
from tests.support.sizes import MODEL

TILE, SIDE = 64, 104  # latents: two tiles, which share the least that tiles share


@pytest.fixture(scope="module")
def golden() -> GoldenNetwork:
    return golden_autoencoder("attention")


@pytest.fixture(scope="module")
def model(golden) -> AutoencoderKL:
    return load_autoencoder(read_autoencoder_config(golden.config), golden.weights)


@pytest.fixture
def folder(model, tmp_path) -> Path:
    save_autoencoder(tmp_path / "vae", model)
    return tmp_path / "vae"


def test_folder_gives_scaled_latents_and_images_as_diffusers_computes_them(folder, golden):
    autoencoder = Autoencoder.from_folder(folder)
    images, mean, latents, decoded = (golden.vectors[key] for key in ("images", "mean", "latents", "decoded"))
    scaled = autoencoder.encode(images)
    assert scaled.dtype == np.float32
    # 1e-5 of the largest value, as the network itself.
    np.testing.assert_allclose(scaled, (mean - 0.1159) * 0.3611, rtol=0, atol=1e-5 * np.abs(mean).max())
    result = autoencoder.decode((latents - 0.1159) * 0.3611)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, decoded, rtol=0, atol=1e-5 * np.abs(decoded).max())
    assert (autoencoder.downscale, autoencoder.channels) == (2, 4)


def test_folder_holds_the_same_weights_bit_for_bit_under_the_same_fingerprint(model, folder):
    autoencoder = Autoencoder.from_folder(folder)
    first, second = export_autoencoder(model), export_autoencoder(autoencoder.model)
    assert all(np.array_equal(first[key], second[key]) for key in first)
    assert autoencoder.model.cfg == model.cfg
    assert autoencoder.fingerprint == Autoencoder.from_folder(folder, "bfloat16").fingerprint
    assert autoencoder.fingerprint == Autoencoder(model).fingerprint


def test_fingerprint_changes_with_one_weight_and_with_the_scale(model):
    def fingerprint(cfg, weights):
        return Autoencoder(load_autoencoder(cfg, weights)).fingerprint

    weights = export_autoencoder(model)
    changed = weights | {"decoder.conv_out.bias": weights["decoder.conv_out.bias"] + np.float32(1e-6)}
    rescaled = dataclasses.replace(model.cfg, scaling_factor=0.3612)
    prints = [fingerprint(*sizes) for sizes in ((model.cfg, weights), (model.cfg, changed), (rescaled, weights))]
    assert len(set(prints)) == 3
    assert all(len(text) == 64 for text in prints)
    assert fingerprint(dataclasses.replace(model.cfg, sample_size=64), weights) == prints[0]


def test_model_of_newer_weights_and_batches_that_fill_up_compile_nothing(model):
    rng = np.random.default_rng(0)
    images = rng.uniform(-1, 1, (5, 16, 16, 3)).astype(np.float32)
    newer = load_autoencoder(model.cfg, {key: value * 1.01 for key, value in export_autoencoder(model).items()})
    autoencoder = Autoencoder(model, tile=12)  # 144 latents a call: two of these images
    with compilations() as compiled:
        latents = autoencoder.encode(images)
        decoded = autoencoder.decode(latents)
        assert len(compiled) == 2
        changed = Autoencoder(newer, tile=12).encode(images)
        np.testing.assert_allclose(autoencoder.encode(images[:4]), latents[:4], rtol=0, atol=1e-6)
    assert len(compiled) == 2
    assert np.abs(changed - latents).max() > 1e-3
    assert decoded.shape == images.shape
    # Each image is computed by itself: another place in a batch rounds otherwise at most.
    np.testing.assert_allclose(autoencoder.decode(latents[::-1])[::-1], decoded, rtol=0, atol=1e-5)


def test_all_tiles_have_one_shape_and_a_small_picture_is_computed_whole(model):
    autoencoder = Autoencoder(model, tile=8)
    with compilations() as compiled:
        assert autoencoder.decode(np.zeros((1, 21, 14, 4), np.float32)).shape == (1, 42, 28, 3)
        assert autoencoder.decode(np.zeros((1, 9, 33, 4), np.float32)).shape == (1, 18, 66, 3)
    assert len(compiled) == 1
    latents = np.random.default_rng(0).normal(size=(1, 8, 7, 4)).astype(np.float32)
    whole = nnx.jit(AutoencoderKL.decode)(model, jnp.asarray(latents / np.float32(0.3611) + np.float32(0.1159)))
    np.testing.assert_allclose(autoencoder.decode(latents), whole, rtol=0, atol=1e-5)


def smooth_latents(seed: int) -> np.ndarray:
    """Latents (1, 16, SIDE, 4) that run from one random value on the left to its opposite on the right."""
    value = np.random.default_rng(seed).normal(size=(1, 1, 1, 4))
    return (0.7 * value * np.linspace(-1, 1, SIDE)[None, None, :, None] * np.ones((1, 16, 1, 1))).astype(np.float32)


def jumps(pictures: np.ndarray) -> np.ndarray:
    """Returns the mean absolute difference of each column to the next."""
    return np.abs(np.diff(pictures, axis=2)).mean(axis=(0, 1, 3))


def where_tiles_meet(scale: int, edge: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns masks of jumps: in the tiles' overlap, and elsewhere, except `edge` columns beside the outer edges."""
    overlap = np.zeros(SIDE * scale - 1, bool)
    overlap[tile_starts(SIDE, TILE)[1] * scale - 1 : TILE * scale] = True
    elsewhere = ~overlap
    elsewhere[:edge], elsewhere[-edge:] = False, False
    return overlap, elsewhere


@pytest.mark.parametrize("seed", range(3))
def test_decoded_picture_jumps_no_more_where_tiles_meet_than_elsewhere(model, seed):
    autoencoder, latents = Autoencoder(model, tile=TILE), smooth_latents(seed)
    overlap, elsewhere = where_tiles_meet(scale=2, edge=24)
    largest = jumps(autoencoder.decode(latents))[elsewhere].max()
    assert jumps(autoencoder.decode(latents))[overlap].max() <= 1.1 * largest
    # The same tiles set side by side show a seam: the picture's content is not what hides it.
    half = SIDE // 2
    left, right = autoencoder.decode(latents[:, :, :TILE]), autoencoder.decode(latents[:, :, -TILE:])
    pasted = np.concatenate([left[:, :, : 2 * half], right[:, :, -2 * half :]], axis=2)
    assert jumps(pasted)[overlap].max() > 3 * largest


def test_constant_latents_decode_without_a_step(model):
    latents = np.ones((1, SIDE, SIDE, 4), np.float32) * np.array([0.5, -0.3, 0.8, 0.1], np.float32)[None, None, None]
    inner = Autoencoder(model, tile=TILE).decode(latents)[:, 24:-24, 24:-24]  # without what the zeros outside do
    one_level = 2 / 255  # of an 8-bit picture in [-1, 1]
    assert np.abs(np.diff(inner, axis=1)).max() < one_level
    assert np.abs(np.diff(inner, axis=2)).max() < one_level


def test_encoded_latents_of_a_large_picture_have_no_seam(model):
    x = np.linspace(-1, 1, 2 * SIDE)
    image = np.stack([x, -x, x**2], axis=-1)[None, None].repeat(32, axis=1).astype(np.float32)
    autoencoder = Autoencoder(model, tile=TILE)
    overlap, _ = where_tiles_meet(scale=1, edge=12)
    left, right = autoencoder.encode(image[:, :, : 2 * TILE]), autoencoder.encode(image[:, :, -2 * TILE :])
    pasted = np.concatenate([left[:, :, : SIDE // 2], right[:, :, -SIDE // 2 :]], axis=2)
    blended = autoencoder.encode(image)
    assert blended.shape == (1, 16, SIDE, 4)
    assert jumps(blended)[overlap].max() < jumps(pasted)[overlap].max() / 5


def test_settings_of_a_run_are_compared_with_the_autoencoder(folder):
    settings, sizes = AutoencoderConfig(str(folder), downscale=2), dataclasses.replace(MODEL, channels=4)
    assert Autoencoder.from_config(settings, sizes).channels == 4
    with pytest.raises(ConfigError, match=r"model.channels = 3: the autoencoder in .* has 4. Set 4"):
        Autoencoder.from_config(settings, dataclasses.replace(sizes, channels=3))
    with pytest.raises(ConfigError, match=r"autoencoder.downscale = 8: the autoencoder in .* has 2. Set 2"):
        Autoencoder.from_config(AutoencoderConfig(str(folder), downscale=8), sizes)
    with pytest.raises(ConfigError, match=r"autoencoder.folder = None: the flow is one of pixels"):
        Autoencoder.from_config(AutoencoderConfig(), sizes)


def test_an_interrupted_save_leaves_no_weights_with_the_scaling_of_an_earlier_one(model, folder, monkeypatch):
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    rescaled = load_autoencoder(dataclasses.replace(model.cfg, scaling_factor=2.0), export_autoencoder(model))
    with pytest.raises(KeyboardInterrupt):
        save_autoencoder(folder, rescaled)
    with pytest.raises(ConfigError, match=r"has no config\.json"):
        Autoencoder.from_folder(folder)
    monkeypatch.undo()
    save_autoencoder(folder, rescaled)
    assert Autoencoder.from_folder(folder).model.cfg.scaling_factor == 2.0
    assert len(list(folder.iterdir())) == 2


def test_incomplete_folder_is_refused_with_what_it_lacks(folder):
    with pytest.raises(ConfigError, match=r"nowhere'?: has no config.json. Use a diffusers vae folder"):
        Autoencoder.from_folder(folder / "nowhere")
    (weights,) = folder.glob("*.safetensors")
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1000])
    with pytest.raises(WeightsError, match="damaged"):
        Autoencoder.from_folder(folder)
    weights.unlink()
    with pytest.raises(ConfigError, match=r"has no \*.safetensors"):
        Autoencoder.from_folder(folder)
    weights.write_bytes(whole)
    fields = json.loads((folder / "config.json").read_text())
    for text, message in (
        ("{", "config.json is damaged: it is not valid JSON"),
        (json.dumps(fields | {"act_fn": "relu"}), "config.json: act_fn = 'relu'"),
    ):
        (folder / "config.json").write_text(text)
        with pytest.raises(ConfigError, match=message):
            Autoencoder.from_folder(folder)
    (folder / "config.json").write_text(json.dumps(fields | {"layers_per_block": 2}))
    with pytest.raises(WeightsError, match=r"missing     decoder.up_blocks.0.resnets.2"):
        Autoencoder.from_folder(folder)


def test_arrays_that_do_not_fit_are_refused_before_compiling(model, folder):
    autoencoder = Autoencoder(model)
    for images, message in (
        (np.zeros((1, 16, 15, 3), np.float32), r"images.shape = \(1, 16, 15, 3\): .* multiples of 2"),
        (np.zeros((16, 16, 3), np.float32), r"must be \(B, H, W, 3\)"),
        (np.zeros((1, 16, 16, 3), np.uint8), "images.dtype = 'uint8': must be floating point"),
    ):
        with compilations() as compiled, pytest.raises(ConfigError, match=message):
            autoencoder.encode(images)
        assert not compiled
    with (
        compilations() as compiled,
        pytest.raises(ConfigError, match=r"latents.shape = \(1, 8, 8, 16\): must be \(B, h, w, 4\)"),
    ):
        autoencoder.decode(np.zeros((1, 8, 8, 16), np.float32))
    assert not compiled
    with pytest.raises(ConfigError, match="tile = 4: must be at least 8 latents"):
        Autoencoder(model, tile=4)
    with pytest.raises(ConfigError, match="dtype = 'float16': is not a compute type"):
        Autoencoder.from_folder(folder, "float16")


def test_bfloat16_latents_are_taken(model):
    latents = np.random.default_rng(0).normal(size=(1, 8, 8, 4)).astype(jnp.bfloat16)
    autoencoder = Autoencoder(model, tile=8)
    np.testing.assert_array_equal(autoencoder.decode(latents), autoencoder.decode(latents.astype(np.float32)))
