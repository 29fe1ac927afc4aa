"""The whole latent path: prepare, train on two buckets, resume, sample."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from nami_jax import NamiPipeline
from nami_jax.autoencoder.codec import Autoencoder, save_autoencoder
from nami_jax.checkpoints.checkpoint import Checkpoints
from nami_jax.config import AutoencoderConfig, BridgeConfig, ConfigError
from nami_jax.data.images import to_stage
from nami_jax.host_checks.run_checks import check_data
from nami_jax.models.autoencoder_kl import AutoencoderKL, AutoencoderKLConfig
from nami_jax.parallel.sharding import shard_batch
from nami_jax.preparation.job import Options
from nami_jax.preparation.orchestration import prepare
from nami_jax.release.run_conversion import convert_run
from nami_jax.training.compilation import abstract_batch, shapes_of
from nami_jax.training.flow_task import FlowTask
from tests.preparation.conftest import png, write_lines
from tests.support.runs import train

ONE_DEVICE = jax.devices()[:1]


@pytest.fixture(scope="module")
def prepared(latent_config, data_fields, tmp_path_factory):
    folder = tmp_path_factory.mktemp("latents")
    images = folder / "images"
    images.mkdir()
    sizes = [(20, 20)] * 12 + [(40, 20)] * 12
    for i, (width, height) in enumerate(sizes):
        (images / f"{i}.png").write_bytes(png(width, height, "red" if i % 2 else "blue"))
    write_lines(images, [{"file_name": f"{i}.png", "text": f"card {i}"} for i in range(len(sizes))])
    cfg = data_fields(latent_config, prepared=str(folder / "prepared"))
    prepare(cfg, str(images), str(folder / "prepared"), Options(unit_size=24, held_out=0.3))
    train_fields = {"steps": 6, "eval_every": 6, "sample_every": 6, "checkpoint_every": 3, "sample_images": 3}
    return dataclasses.replace(cfg, train=dataclasses.replace(cfg.train, **train_fields))


@pytest.fixture(scope="module")
def run(prepared, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    return workdir, train(prepared, workdir, ONE_DEVICE)


def test_a_run_on_two_buckets_continues_bit_equal(prepared, run, tmp_path):
    train(prepared, tmp_path, ONE_DEVICE, stop_after=3)
    again = train(prepared, tmp_path, ONE_DEVICE)
    for found, expected in zip(jax.tree.leaves(again.params), jax.tree.leaves(run[1].params), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.fixture(scope="module")
def encoded_lower(prepared, data_fields, tmp_path_factory):
    """The same pictures, with the latents of smaller sizes beside them."""
    out = tmp_path_factory.mktemp("lower") / "prepared"
    cfg = data_fields(prepared, prepared=str(out), lower_stages="pixels")
    source = Path(str(prepared.data.prepared)).parent / "images"
    prepare(cfg, str(source), str(out), Options(unit_size=24, held_out=0.3))
    return cfg


def test_smaller_sizes_are_encoded_from_pixels_pooled_as_stages_are(encoded_lower):
    autoencoder = Autoencoder.from_folder(str(encoded_lower.autoencoder.folder))
    wide = FlowTask(encoded_lower).data.train[1]
    for i in range(3):
        sample = wide[i]
        pixels = np.asarray(Image.new("RGB", (32, 16), "red" if int(sample.id.split(".")[0]) % 2 else "blue"))
        assert [latents.shape for latents in (sample.image, *sample.lower)] == [(8, 16, 4), (4, 8, 4), (2, 4, 4)]
        for latents, factor in zip((sample.image, *sample.lower), (1, 2, 4), strict=True):
            image = pixels[None, ::factor, ::factor] / np.float32(127.5) - np.float32(1)  # of one colour
            np.testing.assert_allclose(latents, autoencoder.encode(image)[0], rtol=2**-7, atol=1e-4)
        # The border is padded at each size: what is encoded is not what pooling gives.
        assert np.abs(to_stage(sample.image[None], 2)[0] - sample.lower[0]).max() > 0.01


def test_a_run_on_encoded_lower_stages_continues_bit_equal_as_compiled_ahead_and_draws(encoded_lower, tmp_path):
    whole = train(encoded_lower, tmp_path / "whole", ONE_DEVICE)
    train(encoded_lower, tmp_path / "parts", ONE_DEVICE, stop_after=3)
    again = train(encoded_lower, tmp_path / "parts", ONE_DEVICE)
    for found, expected in zip(jax.tree.leaves(again.params), jax.tree.leaves(whole.params), strict=True):
        np.testing.assert_array_equal(found, expected)
    pipe = NamiPipeline.from_pretrained(tmp_path / "whole")
    assert pipe("card 3", steps=(1, 1, 1))[0].size == (16, 16)
    task = FlowTask(encoded_lower, ONE_DEVICE)
    batch = shard_batch(next(task.loader()), task.mesh)
    expected = abstract_batch(encoded_lower, shapes_of(batch), task.mesh, task.data.empty)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), batch) == jax.tree.map(lambda x: (x.shape, x.dtype), expected)
    pooled = dataclasses.replace(encoded_lower, data=dataclasses.replace(encoded_lower.data, lower_stages="latents"))
    with pytest.raises(ConfigError, match=r"data\.lower_stages = 'latents': the run .* was started with 'pixels'"):
        train(pooled, tmp_path / "parts", ONE_DEVICE)


def test_a_bridge_is_trained_to_lead_on_from_encoded_lower_stages(encoded_lower, prepared, tmp_path):
    bridged = {
        "bridge": BridgeConfig(kind="conv", steps=2),
        "sample": dataclasses.replace(prepared.sample, transition="bridge"),
        "train": dataclasses.replace(prepared.train, steps=1, eval_every=9, sample_every=1),
    }
    found = [
        train(dataclasses.replace(cfg, **bridged), tmp_path / name, ONE_DEVICE).bridge
        for name, cfg in (("pixels", encoded_lower), ("latents", prepared))
    ]
    assert not all(np.array_equal(*pair) for pair in zip(*map(jax.tree.leaves, found), strict=True))


def test_samples_are_decoded_at_any_shape_that_the_stages_take(run):
    pipe = NamiPipeline.from_pretrained(run[0])
    assert [image.size for image in pipe("card 3", num_images=2, steps=(1, 1, 1))] == [(16, 16)] * 2
    assert pipe("card 3", width=32, steps=(1, 1, 1))[0].size == (32, 16)
    with pytest.raises(ConfigError, match=r"width = 24: .* multiple of 16"):
        pipe("card 3", width=24)


def test_a_folder_of_a_run_brings_its_autoencoder_and_draws_the_same(run, tmp_path, monkeypatch):
    convert_run(run[0], tmp_path / "folder")
    for file in set((tmp_path / "folder").rglob("*.json")) - {tmp_path / "folder" / "recipe.json"}:  # the run's config
        assert "/" not in file.read_text().replace("N/A", ""), f"{file} names a path"
    monkeypatch.chdir("/")
    pipes = (NamiPipeline.from_pretrained(folder) for folder in (run[0], tmp_path / "folder"))
    found, expected = (np.asarray(pipe("card 3", steps=(1, 1, 1), seed=2)[0]) for pipe in pipes)
    np.testing.assert_array_equal(found, expected)
    shutil.rmtree(tmp_path / "folder" / "vae")
    with pytest.raises(ConfigError, match=r"folder lacks vae/\. `python -m nami_jax\.convert"):
        NamiPipeline.from_pretrained(tmp_path / "folder")


def test_a_run_without_its_autoencoder_is_converted_only_if_told_so(run, prepared, tmp_path):
    folder = Path(prepared.autoencoder.folder)
    hidden = folder.rename(folder.with_name("hidden"))
    try:
        with pytest.raises(ConfigError, match=rf"was trained with {folder}, which is not there\. .*--allow_missing"):
            convert_run(run[0], tmp_path / "folder")
        assert convert_run(run[0], tmp_path / "folder", allow_missing=True).absent == ["vae/"]
    finally:
        hidden.rename(folder)


def test_an_autoencoder_named_from_the_current_folder_is_found_from_any(prepared, monkeypatch, tmp_path):
    folder = Path(prepared.autoencoder.folder)
    monkeypatch.chdir(folder.parent)
    relative = dataclasses.replace(prepared, autoencoder=dataclasses.replace(prepared.autoencoder, folder=folder.name))
    task = FlowTask(relative, ONE_DEVICE)
    monkeypatch.chdir(tmp_path)
    assert task.cfg == prepared
    assert task.codec is not None


def test_preflight_reads_every_bucket(prepared):
    facts = {}
    finding = check_data(FlowTask(prepared, ONE_DEVICE), facts)
    counts = facts["samples"]["train"]
    assert finding.status == "ok"
    assert finding.text.startswith(f"{sum(json.loads(counts))} samples to train on; reads ")
    assert len(json.loads(counts)) == 2


def test_latents_of_another_autoencoder_are_refused(prepared, tmp_path: Path):
    sizes = AutoencoderKLConfig(
        block_out_channels=(4, 4), latent_channels=4, norm_num_groups=2, mid_block_add_attention=False
    )
    save_autoencoder(tmp_path / "vae", AutoencoderKL(sizes, rngs=nnx.Rngs(1)))
    cfg = dataclasses.replace(prepared, autoencoder=AutoencoderConfig(str(tmp_path / "vae"), 2))
    with pytest.raises(ConfigError, match="were made by another autoencoder"):
        train(cfg, tmp_path / "run", ONE_DEVICE)


def test_a_run_whose_autoencoder_was_trained_anew_is_not_sampled(prepared, run, tmp_path):
    folder = Path(prepared.autoencoder.folder)
    kept = shutil.copytree(folder, tmp_path / "kept")
    save_autoencoder(folder, AutoencoderKL(Autoencoder.from_folder(folder).model.cfg, rngs=nnx.Rngs(9)))
    try:
        with pytest.raises(ConfigError, match=r"autoencoder\.folder = .* another autoencoder than the run in .* Put"):
            NamiPipeline.from_pretrained(run[0])
    finally:
        shutil.copytree(kept, folder, dirs_exist_ok=True)
    assert NamiPipeline.from_pretrained(run[0]).autoencoder is not None


def test_a_run_is_not_sampled_with_another_text_encoder(prepared, run, tmp_path):
    with Checkpoints(tmp_path, prepared) as checkpoints:
        checkpoints.use_networks({"text_encoder": "minilm-of-another-time"})
        checkpoints.save(6, run[1].items(), {"next_index": 6})
    pipe = NamiPipeline.from_pretrained(tmp_path)  # from text states it may draw
    with pytest.raises(ConfigError, match=r"another text encoder than .* was trained with, minilm-of-another-time"):
        pipe("card 3", steps=(1, 1, 1))


def test_an_autoencoder_of_other_sizes_is_named(prepared, tmp_path):
    cfg = dataclasses.replace(prepared, autoencoder=dataclasses.replace(prepared.autoencoder, downscale=1))
    with pytest.raises(ConfigError, match=r"autoencoder\.downscale = 1: the autoencoder in .* has 2"):
        train(cfg, tmp_path, ONE_DEVICE)
