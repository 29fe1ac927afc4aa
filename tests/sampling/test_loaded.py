import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from nami_jax import NamiPipeline
from nami_jax.autoencoder.codec import Autoencoder, save_autoencoder
from nami_jax.config import AutoencoderConfig, BridgeConfig, Config, ConfigError
from nami_jax.files.json_files import read_json
from nami_jax.models.autoencoder_kl import AutoencoderKL, AutoencoderKLConfig
from nami_jax.models.bridge import ConvBridge
from nami_jax.sampling.parts import Parts
from nami_jax.weights import open_tensors
from nami_jax.weights.converted import RECIPE_FILE, TRANSFORMER, find_folder, shipped_models
from tests.support.pipelines import no_encoder, small_pipeline, states


def latents(pipe):
    return pipe(**states(), output_type="latent", seed=2)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_saved_folder_draws_the_same_pictures_bit_for_bit(tmp_path, dtype):
    pipe = small_pipeline(dtype=dtype)
    pipe.model = NamiPipeline(Parts(pipe.model, pipe.cfg, None, ""), no_encoder).model
    pipe.save_pretrained(tmp_path / "first")
    first = NamiPipeline.from_pretrained(tmp_path / "first")
    first.save_pretrained(tmp_path / "second")
    second = NamiPipeline.from_pretrained(tmp_path / "second")
    np.testing.assert_array_equal(latents(first), latents(second))
    if dtype == "float32":  # the other is held in float32 here, as no loaded network is
        np.testing.assert_array_equal(latents(pipe), latents(first))
    assert first.cfg.sample == pipe.cfg.sample
    with pytest.raises(ConfigError, match=r"to = .*first': exists and is not empty"):
        pipe.save_pretrained(tmp_path / "first")


def test_bridge_and_autoencoder_are_saved_with_the_network(tmp_path):
    pipe = small_pipeline()
    bridge = ConvBridge(3, 2, rngs=nnx.Rngs(0))
    bridge.scales[...] = jnp.array([0.6, 0.7])
    sizes = AutoencoderKLConfig(
        block_out_channels=(4, 8), latent_channels=3, norm_num_groups=2, mid_block_add_attention=False
    )
    save_autoencoder(tmp_path / "vae", AutoencoderKL(sizes, rngs=nnx.Rngs(1)))
    cfg = dataclasses.replace(
        pipe.cfg,
        bridge=BridgeConfig(kind="conv"),
        sample=dataclasses.replace(pipe.cfg.sample, transition="bridge"),
        autoencoder=AutoencoderConfig(folder=str(tmp_path / "vae"), downscale=2),
    )
    autoencoder = Autoencoder.from_config(cfg.autoencoder, cfg.model)
    whole = NamiPipeline(Parts(pipe.model, cfg, bridge, ""), no_encoder, autoencoder=autoencoder)
    whole.save_pretrained(tmp_path / "saved")
    again = NamiPipeline.from_pretrained(tmp_path / "saved")
    drawn, expected = (
        np.stack([np.asarray(x) for x in each(**states(2), height=32, width=32)]) for each in (again, whole)
    )
    np.testing.assert_array_equal(drawn, expected)
    assert drawn.shape == (2, 32, 32, 3)
    source, mask = drawn[0], np.zeros((32, 32), bool)
    mask[5:20, 9:22] = True
    filled = np.asarray(again(**states(), height=32, width=32, image=source, mask=mask)[0])
    np.testing.assert_array_equal(filled[~mask], source[~mask])  # whatever the autoencoder makes of it
    assert not np.array_equal(filled[mask], source[mask])


def test_the_fingerprints_change_with_each_part_that_changes_pictures():
    pipe = small_pipeline()
    parts = Parts(pipe.model, pipe.cfg, None, pipe.source)
    sizes = AutoencoderKLConfig(
        block_out_channels=(4, 8), latent_channels=3, norm_num_groups=2, mid_block_add_attention=False
    )
    codecs = [Autoencoder(AutoencoderKL(sizes, rngs=nnx.Rngs(seed))) for seed in (0, 1)]
    bridged = [dataclasses.replace(pipe.cfg, bridge=BridgeConfig(kind="conv", noise=noise)) for noise in (0.0, 0.5)]
    other_text = dataclasses.replace(pipe.cfg, text=dataclasses.replace(pipe.cfg.text, max_length=6))
    bridge = ConvBridge(3, 2, rngs=nnx.Rngs(0))
    pipes = [
        pipe,
        small_pipeline(seed=1),
        NamiPipeline(parts._replace(cfg=other_text), no_encoder),
        *(NamiPipeline(parts, no_encoder, autoencoder=codec) for codec in codecs),
        *(NamiPipeline(parts._replace(cfg=cfg, bridge=bridge), no_encoder) for cfg in bridged),
    ]
    assert len({json.dumps(each.fingerprints()) for each in pipes}) == len(pipes)


def test_what_was_loaded_with_another_part_missing_is_not_saved(tmp_path):
    pipe = small_pipeline(autoencoder=AutoencoderConfig(folder=str(tmp_path / "gone"), downscale=2))
    with pytest.raises(ConfigError, match="gone, which is not there"):
        pipe.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()
    assert jax.tree.leaves(nnx.state(pipe.model))


def test_a_name_that_is_no_folder_is_told_the_models_that_come_along():
    names = ", ".join(shipped_models())
    with pytest.raises(ConfigError, match=rf"checkpoint = 'emojy': is not there\. .* comes with nami_jax: {names}\."):
        NamiPipeline.from_pretrained("emojy")


@pytest.mark.parametrize("name", shipped_models())
def test_a_model_that_comes_along_is_small_says_how_it_was_trained_and_draws(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = find_folder(name)
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) <= 12e6
    assert {str(tensor.dtype) for tensor in open_tensors(folder / TRANSFORMER).values()} < {"float16", "bfloat16"}
    recipe = read_json(folder / RECIPE_FILE, "Convert the run again")
    cfg = Config.from_dict(recipe["config"])
    assert 0 < recipe["step"] <= cfg.train.steps
    assert recipe["data_license"]
    assert len(recipe["converted_by"]["commit"]) == 40  # not "-dirty"
    pipe = NamiPipeline.from_pretrained(name)
    assert (pipe.source, pipe.cfg.model, pipe.cfg.sample) == (name, cfg.model, cfg.sample)
    pixels = pipe("a red apple, noto style", output_type="np")[0]
    assert pixels.shape == (cfg.data.side, cfg.data.side, 3)
    assert pixels.std() > 0.02  # not one colour; `pixels` are refused where they are not finite
