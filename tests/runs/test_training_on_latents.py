"""The whole latent path: prepare, train on two buckets, resume, sample."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from nami_jax import NamiPipeline
from nami_jax.autoencoder.codec import Autoencoder, save_autoencoder
from nami_jax.checkpoints.checkpoint import Checkpoints
from nami_jax.config import AutoencoderConfig, ConfigError
from nami_jax.host_checks.run_checks import check_data
from nami_jax.models.autoencoder_kl import AutoencoderKL, AutoencoderKLConfig
from nami_jax.preparation.job import Options
from nami_jax.preparation.orchestration import prepare
from nami_jax.release.run_conversion import convert_run
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


def test_samples_are_decoded_at_any_shape_that_the_stages_take(run):
    pipe = NamiPipeline.from_pretrained(run[0])
    assert [image.size for image in pipe("card 3", num_images=2, steps=(1, 1, 1))] == [(16, 16)] * 2
    assert pipe("card 3", width=32, steps=(1, 1, 1))[0].size == (32, 16)
    with pytest.raises(ConfigError, match=r"width = 24: .* multiple of 16"):
        pipe("card 3", width=24)


def test_a_folder_of_a_run_brings_its_autoencoder_and_draws_the_same(run, tmp_path, monkeypatch):
    convert_run(run[0], tmp_path / "folder")
    for file in (tmp_path / "folder").rglob("*.json"):
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
