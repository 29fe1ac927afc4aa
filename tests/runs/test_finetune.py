"""The released weights from conversion over sampling and fine-tuning to export, at a tiny size."""

import dataclasses
import json
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict
from PIL import Image

from configs import nami_2b_finetune
from nami_jax import NamiPipeline
from nami_jax.checkpoints.beginning import load_base_bridge
from nami_jax.checkpoints.runs import load_run
from nami_jax.config import Config, ConfigError, PipelineConfig
from nami_jax.preparation.job import Options
from nami_jax.preparation.orchestration import prepare
from nami_jax.release.conversion import convert_release
from nami_jax.release.exporting import export_run
from nami_jax.release.run_conversion import convert_run
from nami_jax.weights import open_tensors
from nami_jax.weights.nami_keys import load_nami
from tests.support import text_release
from tests.support.releases import release_tensors, write_release
from tests.support.runs import train

ONE_DEVICE = jax.devices()[:1]


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("release")
    release = write_release(folder / "release", release_tensors())
    text_release.write_tokenizers(release)
    convert_release(release, folder / "converted")
    return folder / "converted"


@pytest.fixture(scope="module")
def pipe(converted):
    return NamiPipeline.from_pretrained(converted, dtype="float32")


def test_converted_release_draws_with_its_own_settings(pipe):
    assert pipe.cfg.side == 128
    image = pipe("Red apple", preset="released", steps=(2, 1, 1), seed=1)[0]
    assert image.size == (128, 128)
    assert np.ptp(np.asarray(image)) > 0


def test_released_bridge_is_for_one_size_and_renoising_for_all(pipe):
    with pytest.raises(ConfigError, match=r"this bridge is for latents of 16x16 only, not 16x24.*'renoise'.*'conv'"):
        pipe("Red apple", width=192, transition=pipe.settings("released").transition)
    assert pipe("Red apple", width=192, transition="renoise", steps=(1, 1, 1))[0].size == (192, 128)


@pytest.fixture(scope="module")
def config(converted, tmp_path_factory):
    """configs/nami_2b_finetune.py at the tiny release's size, on eight prepared pictures."""
    folder = tmp_path_factory.mktemp("finetune")
    (folder / "images").mkdir()
    lines = []
    for i in range(8):
        Image.new("RGB", (128, 128), ("red", "navy")[i % 2]).save(folder / "images" / f"{i}.png")
        lines.append(json.dumps({"file_name": f"{i}.png", "text": ("Red apple", "Blue fish")[i % 2]}))
    (folder / "images" / "metadata.jsonl").write_text("\n".join(lines))

    fields: Any = nami_2b_finetune.get_config("lora")
    sizes = PipelineConfig.from_dict(json.loads((converted / "pipeline.json").read_text())).model
    fields.model = ConfigDict(dataclasses.asdict(dataclasses.replace(sizes, dtype="float32", lora_rank=2)))
    fields.data.update(side=128, prepared=str(folder / "prepared"))
    fields.text.folder, fields.train.init_from = str(converted), str(converted)
    fields.autoencoder.folder = str(converted / "vae")
    fields.sample.steps = (1, 1, 1)
    fields.train.update(stage_batches=((2, 2, 2),), steps=3, warmup_steps=0, eval_batch=2, sample_images=1, log_every=1)
    cfg = Config.from_dict(fields.to_dict())
    prepare(cfg, str(folder / "images"), str(folder / "prepared"), Options(held_out=0.3))
    return cfg


@pytest.fixture(scope="module")
def tuned(config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("tuned")
    state = train(config, workdir, ONE_DEVICE, stop_after=2)
    return workdir, state, train(config, workdir, ONE_DEVICE)


def test_low_rank_training_continues_and_starts_from_the_released_weights(converted, tuned):
    _, first, last = tuned
    assert (int(first.step), int(last.step)) == (2, 3)
    released = open_tensors(converted / "transformer")["x_embedder.weight"][...]
    for state in (first, last):
        np.testing.assert_array_equal(state.frozen["image_in"]["kernel"], released.T)
    moved = last.params["single_blocks"]["proj"]["lora"]["lora_b"]
    assert float(np.abs(moved).max()) > 0


def test_the_released_bridge_is_taken_over_not_trained(converted, tuned):
    scales = open_tensors(converted / "bridge_flow")["scale"][...]
    np.testing.assert_array_equal(tuned[2].bridge["scales"], scales)


def test_checkpoint_holds_the_pairs_alone(tuned):
    small = sum(f.stat().st_size for f in (tuned[0] / "checkpoints" / "3" / "ema").rglob("*") if f.is_file())
    frozen = sum(leaf.nbytes for leaf in jax.tree.leaves(tuned[2].frozen))
    assert small < frozen


def test_exported_run_is_a_release_of_the_merged_network(tuned, converted, tmp_path):
    workdir, _, _ = tuned
    export_run(workdir, tmp_path / "exported", as_safetensors=True)
    convert_release(tmp_path / "exported", tmp_path / "again", allow_missing=True)
    merged = load_run(workdir).model
    again = load_nami(merged.cfg, open_tensors(tmp_path / "again" / "transformer"))
    found, expected = (flatten_dict(nnx.to_pure_dict(nnx.state(model))) for model in (again, merged))
    assert found.keys() == expected.keys()
    for path, leaf in expected.items():
        np.testing.assert_array_equal(found[path], leaf, err_msg=str(path))
    kernel = nnx.to_pure_dict(nnx.state(again))["single_blocks"]["proj"]["kernel"]
    assert not np.array_equal(kernel, tuned[2].frozen["single_blocks"]["proj"]["kernel"])
    assert (tmp_path / "again" / "bridge_flow").is_dir()


@pytest.mark.slow
def test_a_folder_of_the_run_brings_its_text_encoder_autoencoder_and_bridge(tuned, config, tmp_path):
    convert_run(tuned[0], tmp_path / "folder")
    assert {path.name for path in (tmp_path / "folder").iterdir()} == {
        "pipeline.json", "recipe.json", "transformer", "bridge_flow", "vae", "mt5", "mclip",
    }  # fmt: skip
    anywhere, run = (NamiPipeline.from_pretrained(path) for path in (tmp_path / "folder", tuned[0]))
    assert anywhere.cfg.text.folder == str(tmp_path / "folder")
    assert (anywhere.cfg.text.encoder, anywhere.cfg.side) == ("t5_bert", config.data.side)
    found, expected = (np.asarray(pipe("Red apple")[0]) for pipe in (anywhere, run))
    np.testing.assert_array_equal(found, expected)


def test_full_training_starts_from_the_released_weights_in_float32(config, converted, tmp_path):
    model = dataclasses.replace(config.model, lora_rank=None)
    rates = dataclasses.replace(config.train, phase_learning_rates=(1e-9,), steps=1)
    state = train(dataclasses.replace(config, model=model, train=rates), tmp_path, ONE_DEVICE)
    released = open_tensors(converted / "transformer")["x_embedder.weight"][...]
    np.testing.assert_allclose(state.params["image_in"]["kernel"], released.T, atol=1e-6)


def test_a_base_of_another_network_is_refused_though_its_tensors_have_the_same_shapes(config, tmp_path):
    model = dataclasses.replace(config.model, stage_single_blocks=(2, 2, 3))
    with pytest.raises(ConfigError, match=r"stage_single_blocks = \(2, 2, 3\): the network in .* has \(1, 2, 3\)"):
        train(dataclasses.replace(config, model=model), tmp_path, ONE_DEVICE)


def test_low_rank_updates_are_merged_in_float32_whatever_the_compute_type(tuned):
    merged = load_run(tuned[0], dtype="bfloat16").model
    kernel = nnx.to_pure_dict(nnx.state(merged))["single_blocks"]["proj"]["kernel"]
    ema, frozen = (getattr(tuned[2], name)["single_blocks"]["proj"] for name in ("ema", "frozen"))
    update = ema["lora"]["lora_a"] @ ema["lora"]["lora_b"]
    np.testing.assert_allclose(kernel - frozen["kernel"], update, atol=1e-7)


def test_released_bridge_of_another_size_is_named_before_the_network_is_loaded(config, tmp_path):
    data = dataclasses.replace(config.data, side=64)
    with pytest.raises(ConfigError, match=r"data\.side = 64: .*shifts of .* Set 128, or bridge\.kind = None"):
        load_base_bridge(dataclasses.replace(config, data=data))


def test_folder_without_converted_weights_is_named_with_the_remedy(config, tmp_path):
    train_fields = dataclasses.replace(config.train, init_from=str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match=r"train\.init_from = .*nowhere'.*nami_jax\.convert"):
        train(dataclasses.replace(config, train=train_fields), tmp_path / "run", ONE_DEVICE)
